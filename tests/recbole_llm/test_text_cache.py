import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.multiprocessing import spawn

from recbole_llm import text_cache
from recbole_llm.encoder import EncoderSpec
from recbole_llm.errors import ConfigError
from recbole_llm.text_cache import encode_cached
from recbole_llm.text_encoder import TextEncoder
from tests.data import CYCLE

TEXTS = ["film", "a film", "film", "the cycle of film"]


class _Counting(TextEncoder):
    calls: list[list[str]]

    def __init__(self, path: Path, spec: EncoderSpec, device: str) -> None:
        super().__init__(path, spec, device)
        _Counting.calls = []

    def encode(self, texts: list[str]):  # type: ignore[no-untyped-def]
        _Counting.calls.append(texts)
        return super().encode(texts)


def test_nothing_is_encoded_twice(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    spec, cache = EncoderSpec(str(tiny_encoders["bert"])), tmp_path / "deep" / "cache.sqlite"
    first = encode_cached(TEXTS, spec, cache, "cpu", _Counting)
    assert _Counting.calls == [["film", "a film", "the cycle of film"]]
    np.testing.assert_array_equal(first[0], first[2])
    again = encode_cached([*TEXTS[::-1], "new"], spec, cache, "cpu", _Counting)
    assert _Counting.calls == [["new"]]
    np.testing.assert_array_equal(again[:4], first[::-1])


def _train_together(rank: int, folder: Path, whole: str, broken: str, texts: list[str]) -> None:
    """What a process of two encodes of texts, and what it says of an encoder with a broken word."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", world_size=2, rank=rank)
    cache = folder / "shared.sqlite"
    np.save(
        folder / f"{rank}.npy", encode_cached(texts, EncoderSpec(whole), cache, "cpu", _Counting)
    )
    (folder / f"{rank}.json").write_text(json.dumps(_Counting.calls))
    try:
        encode_cached(texts, EncoderSpec(broken), cache, "cpu")
    except ConfigError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_of_one_training_encode_a_part_each_and_fail_together(
    tiny_encoders: dict[str, Path], tmp_path: Path
) -> None:
    whole, broken = tiny_encoders["bert"], tmp_path / "broken"
    texts = [*TEXTS, *(f"film {word}" for word in CYCLE)]
    shutil.copytree(whole, broken)
    weights = load_file(broken / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][-1] = torch.nan  # the last word's
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    spawn(_train_together, (tmp_path, str(whole), str(broken), texts), nprocs=2)
    alone = encode_cached(texts, EncoderSpec(str(whole)), tmp_path / "alone.sqlite", "cpu")
    parts, errors = [], set()
    for rank in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), alone, atol=1e-6)
        calls = json.loads((tmp_path / f"{rank}.json").read_text())
        parts.append({text for call in calls for text in call})
        errors.add((tmp_path / f"{rank}.txt").read_text())
    assert all(parts)
    assert parts[0].isdisjoint(parts[1])
    assert parts[0] | parts[1] == set(texts)
    assert len(errors) == 1
    assert f"a vector with NaN or infinity, first 'film {CYCLE[-1]}'" in errors.pop()


def test_what_was_cached_before_is_found(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    """The key of a text is the SHA-256 of the encoder's fingerprint, a line's end and the text."""
    path, cache = tiny_encoders["bert"], tmp_path / "cache.sqlite"
    encode_cached(["Émile"], EncoderSpec(str(path)), cache, "cpu")
    digest = hashlib.sha256(b"plain text\nmean\n128\n")
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.json")]):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    key = hashlib.sha256(f"{digest.hexdigest()}\nÉmile".encode()).digest()
    with sqlite3.connect(cache) as database:
        assert database.execute("SELECT key FROM vectors").fetchall() == [(key,)]


def test_encoders_do_not_share_vectors(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    bert = encode_cached(["film"], EncoderSpec(str(tiny_encoders["bert"])), cache, "cpu")
    qwen = encode_cached(["film"], EncoderSpec(str(tiny_encoders["qwen3"])), cache, "cpu")
    assert not np.allclose(bert, qwen)


def test_a_killed_run_keeps_what_it_had(
    tiny_encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_cache, "_CHUNK", 1)
    spec, cache = EncoderSpec(str(tiny_encoders["bert"])), tmp_path / "cache.sqlite"

    class Dying(TextEncoder):
        def encode(self, texts: list[str]):  # type: ignore[no-untyped-def]
            if texts == ["the cycle of film"]:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        encode_cached(TEXTS, spec, cache, "cpu", Dying)
    with sqlite3.connect(cache) as database:
        assert database.execute("SELECT count(*) FROM vectors").fetchone() == (2,)


def test_another_file_is_no_cache(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    spec = EncoderSpec(str(tiny_encoders["bert"]))
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough that sqlite looks at its head" * 20)
    with pytest.raises(ConfigError, match=r"notes\.txt is no cache of text vectors"):
        encode_cached(["film"], spec, text, "cpu")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE films (title TEXT)")
    with pytest.raises(ConfigError, match="no such table: vectors"):
        encode_cached(["film"], spec, other, "cpu")


def test_vectors_of_another_model_are_refused(
    tiny_encoders: dict[str, Path], tmp_path: Path
) -> None:
    spec, cache = EncoderSpec(str(tiny_encoders["bert"])), tmp_path / "cache.sqlite"
    encode_cached(["film"], spec, cache, "cpu")
    with sqlite3.connect(cache) as database:
        database.execute("UPDATE vectors SET vector = ?", (np.ones(3, np.float32).tobytes(),))
    with pytest.raises(ConfigError, match=r"vectors of sizes \[3, \d+\] for one encoder"):
        encode_cached(["film", "a film"], spec, cache, "cpu")


def test_only_who_wants_the_same_new_vectors_waits(
    tiny_encoders: dict[str, Path], tmp_path: Path
) -> None:
    spec, cache = EncoderSpec(str(tiny_encoders["bert"])), tmp_path / "cache.sqlite"
    film = encode_cached(["film"], spec, cache, "cpu")
    meanwhile = []

    def load(path: Path, spec: EncoderSpec, device: str) -> TextEncoder:
        meanwhile.append(encode_cached(["film"], spec, cache, "cpu"))
        other = EncoderSpec(str(tiny_encoders["qwen3"]))
        meanwhile.append(encode_cached(["film"], other, cache, "cpu"))
        return TextEncoder(path, spec, device)

    encode_cached(["a film"], spec, cache, "cpu", load)
    np.testing.assert_array_equal(meanwhile[0], film)
    assert len(meanwhile) == 2
