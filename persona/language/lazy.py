"""An encoder that loads its model when the first text arrives: most runs have nothing to encode, and loading takes seconds."""

from collections.abc import Sequence
from functools import cached_property

from persona.language.encoder import Encoder, load_encoder
from persona.schemas import Vectors
from persona.settings import Settings


class LazyEncoder:
    """Stands in for the encoder that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _encoder(self) -> Encoder:
        return load_encoder(self._settings)

    @property
    def fingerprint(self) -> str:
        """Of the model; loads it."""
        return self._encoder.fingerprint

    @property
    def dimension(self) -> int:
        """Of the model's vectors; loads it."""
        return self._encoder.dimension

    def encode(self, texts: Sequence[str]) -> Vectors:
        """As `Encoder.encode`."""
        return self._encoder.encode(texts)
