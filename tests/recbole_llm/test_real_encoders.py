"""Real pretrained weights, of a sentence encoder and of a decoder in a GGUF file."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from recbole_llm.compress_encoder import compress_encoder
from recbole_llm.encoder import find_encoder, locate_weights
from recbole_llm.text_encoder import TextEncoder, load_sentence_transformer

pytestmark = pytest.mark.slow

CRIME = ["The Godfather. Crime Drama", "Goodfellas. Crime Drama", "Casino. Crime Drama"]
CHILDREN = [
    "Aladdin. Animation Children's",
    "Toy Story. Animation Children's",
    "Babe. Children's",
]


@pytest.fixture(scope="module")
def decoder() -> Any:
    """From its GGUF file, which takes so long to read that it is read once."""
    spec = find_encoder("smollm2-135m")
    return load_sentence_transformer(locate_weights(spec), spec, "cpu")


def _encode(name: str, texts: list[str]) -> NDArray[np.float32]:
    spec = find_encoder(name)
    return TextEncoder(locate_weights(spec), spec, "cpu").encode(texts)


def _check_that_kinds_are_told_apart(vectors: NDArray[np.float32]) -> None:
    centred = vectors - vectors.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    similarity = unit @ unit.T
    same_kind = similarity[np.triu_indices(3, 1)].mean()
    assert same_kind > similarity[:3, 3:].mean() + 0.1


def test_a_sentence_encoder_tells_kinds_apart() -> None:
    vectors = _encode("minilm", CRIME + CHILDREN)
    assert vectors.shape == (6, 384)
    _check_that_kinds_are_told_apart(vectors)


def test_a_decoder_does_too_and_is_saved_as_plain_weights(decoder: Any, tmp_path: Path) -> None:
    vectors = decoder.encode(CRIME + CHILDREN, show_progress_bar=False)
    assert vectors.shape == (6, 576)
    _check_that_kinds_are_told_apart(vectors)
    decoder.save_pretrained(str(tmp_path / "plain"), create_model_card=False)
    saved = _encode(str(tmp_path / "plain"), CRIME + CHILDREN)
    np.testing.assert_allclose(saved, vectors, atol=1e-4)


def test_a_decoder_is_compressed(
    decoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Mock(return_value=deepcopy(decoder))
    monkeypatch.setattr("recbole_llm.compress_encoder.load_sentence_transformer", read)
    # Two of its thirty layers: all that is special about it, in less time.
    folder = compress_encoder("smollm2-135m", tmp_path / "small", n_layers=2)
    spec = find_encoder("smollm2-135m")
    read.assert_called_once_with(locate_weights(spec), spec, "cpu")  # as ``decoder`` was read
    assert json.loads((folder / "compressed.json").read_text())["layers"] == [0, 29]
    assert find_encoder(str(folder)).max_tokens == 64
    vectors = _encode(str(folder), ["Toy Story. Animation Children's", "bolts and nuts " * 60])
    assert vectors.shape == (2, 576)
    assert np.isfinite(vectors).all()
