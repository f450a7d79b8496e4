"""An encoder that loads its model when the first text arrives: most runs have nothing to encode, and loading takes seconds."""

import threading
from collections.abc import Sequence
from functools import cached_property

from persona.language.encoder import Encoder, load_encoder
from persona.schemas import Vectors
from persona.settings import Settings

_LOADED: dict[tuple[object, ...], Encoder] = {}
_LOADING = threading.Lock()


class LazyEncoder:
    """Stands in for the encoder that the settings name; it is loaded once a process, whoever asks first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _encoder(self) -> Encoder:
        settings = self._settings
        which = settings.embedding_model, settings.embedding_dim, settings.embedding_precision
        with _LOADING:
            if which not in _LOADED:
                _LOADED[which] = load_encoder(settings)
            return _LOADED[which]

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
