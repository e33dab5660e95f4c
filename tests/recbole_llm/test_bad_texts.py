"""Texts as the world writes them, and disks as it has them, from the ``.item`` file to the vectors."""

import logging
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from recbole_llm import text_cache
from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.encoder import EncoderSpec, find_encoder
from recbole_llm.errors import ConfigError, UnavailableError
from recbole_llm.text_cache import encode_cached
from recbole_llm.text_encoder import TextEncoder
from recbole_llm.train import build_config
from tests.data import walk, write_atomic

BAD = {
    "long": "film of the cycle " * 5_556,  # 100,000 characters
    "empty": "",
    "blank": " \u00a0\u2003 ",
    "emoji": "film \U0001f3ac\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "right-to-left": "\u0641\u064a\u0644\u0645 \u202eof the\u202c \u05e1\u05e8\u05d8",
    "chinese": "\u7535\u5f71 of the cycle",
    "control": "\x01\x02film\x07\x1b[31m \x7f\x85\u2028\ufeff",
    "invisible": "\u200b",
    "combining": "e" + "\u0301" * 300,
    "surrogate": "film \ud83d of",
    "nul": "film\0of",
    "quotes": '"film\\\' "" of',
    "braces": "{film} %s {0}",
    "special": "</s> [PAD] <|endoftext|>",
}


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_bad_texts_come_through_the_dataset(
    tiny_encoders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    architecture: str,
) -> None:  # fmt: skip
    folder = write_atomic(tmp_path, "bad", {"u": walk(0, 12)}, {"i0": "film of the cycle"})
    with (folder / "bad.item").open("ab") as file:
        for item, text in BAD.items():
            file.write(f"{item}\t{text}\n".encode(errors="surrogatepass"))
    vectors = []
    for run in range(2):
        config = build_config(
            "LLMSeqRec", "bad", None,
            {"data_path": str(tmp_path), "item_repr": "text", "text_size": 8,
             "encoder": str(tiny_encoders[architecture]),
             "text_cache": str(tmp_path / f"{run}.sqlite")},
        )  # fmt: skip
        dataset = LLMSeqRecDataset(config)
        with caplog.at_level(logging.INFO, "recbole_llm.text_cache"):
            vectors.append(dataset.text_vectors("cpu"))
    assert vectors[0].shape == (dataset.item_num, 8)
    assert np.isfinite(vectors[0]).all()
    np.testing.assert_array_equal(vectors[0], vectors[1])
    texts = dict(zip(dataset.item_tokens(), dataset.item_texts(), strict=True))
    assert texts["nul"] == "film of"
    assert texts["surrogate"] == "film \ufffd\ufffd\ufffd of"
    assert texts["empty"] == texts["blank"] == ""
    assert texts["long"] == BAD["long"].strip()
    said = [record.getMessage() for record in caplog.records]
    cut = [line for line in said if "cut there" in line]
    line = (
        "item text: of 13 texts 1 were longer than 128 tokens and cut there, 0 had no token and got "
        "zeros"
    )
    assert cut == [line, line]  # once a run
    assert len([line for line in said if "1 fields of" in line and "no utf-8" in line]) == 2


def test_bad_texts_in_a_real_vocabulary(tmp_path: Path) -> None:
    texts = [text for text in BAD.values() if text.strip()]
    vectors = [
        encode_cached(texts, find_encoder("minilm"), tmp_path / f"{run}.sqlite", "cpu")
        for run in range(2)
    ]
    assert np.isfinite(vectors[0]).all()
    assert (np.linalg.norm(vectors[0], axis=1) > 0.1).all()
    np.testing.assert_array_equal(*vectors)


def test_half_a_surrogate_pair_is_a_question_mark(
    tiny_encoders: dict[str, Path], tmp_path: Path
) -> None:
    spec = EncoderSpec(str(tiny_encoders["bert"]))
    vectors = encode_cached(["film \ud83d", "film ?"], spec, tmp_path / "cache.sqlite", "cpu")
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_vector_with_nan_is_not_cached(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_encoders["bert"], broken)
    weights = safetensors.torch.load_file(broken / "model.safetensors")
    cycle = 6  # its row among the words of tiny_encoders
    weights["embeddings.word_embeddings.weight"][cycle] = torch.nan
    safetensors.torch.save_file(weights, broken / "model.safetensors", {"format": "pt"})
    spec, cache = EncoderSpec(str(broken)), tmp_path / "cache.sqlite"
    encode_cached(["film"], spec, cache, "cpu")
    with pytest.raises(ConfigError) as caught:
        encode_cached(["film of", "the cycle"], spec, cache, "cpu")
    assert re.search(r"encoder '.*broken' gives 1 of 2 texts a vector with NaN", str(caught.value))
    assert "first 'the cycle' (9 characters)" in str(caught.value)
    assert _n_rows(cache) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size at a folder; called again, it changes how it is mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        mounted = ["remount"] if place.is_mount() else []
        settings = ",".join([*mounted, options])
        command = ["mount", "-t", "tmpfs", "-o", settings, "tmpfs", str(place)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a small disk")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


_MANY = [f"film {n} of" for n in range(2_000)]


def test_a_disk_that_fills_up(
    tiny_encoders: dict[str, Path], tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    spec = EncoderSpec(str(tiny_encoders["bert"]))
    cache = small_disk("size=256k") / "cache.sqlite"
    with pytest.raises(
        UnavailableError, match=r"cache\.sqlite: database or disk is full\. What it"
    ):
        encode_cached(_MANY, spec, cache, "cpu")
    small_disk("size=8m")
    _check_holds_right_vectors(cache, spec, tmp_path, at_least=512)


def test_a_cache_that_may_not_grow(
    tiny_encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, cache = EncoderSpec(str(tiny_encoders["bert"])), tmp_path / "cache.sqlite"

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = sqlite3.Connection(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 50")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr("recbole_llm.text_cache.sqlite3.connect", connect)
        with pytest.raises(UnavailableError, match="database or disk is full"):
            encode_cached(_MANY, spec, cache, "cpu")
    _check_holds_right_vectors(cache, spec, tmp_path, at_least=512)


class _Killed(sqlite3.Connection):
    """Dies in the middle of the second write, with half of it already in the file."""

    n_writes = 0

    def executemany(self, statement: str, rows: Any) -> sqlite3.Cursor:
        self.n_writes += 1
        if self.n_writes == 2:
            super().execute("PRAGMA cache_size = 1")
            super().executemany(statement, rows[: len(rows) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().executemany(statement, rows)


def _encode_and_die(cache: Path, spec: EncoderSpec) -> None:
    text_cache.sqlite3.connect = _Killed  # type: ignore[attr-defined]
    encode_cached(_MANY, spec, cache, "cpu")


@pytest.mark.slow
def test_a_run_killed_while_it_writes(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    spec, cache = EncoderSpec(str(tiny_encoders["bert"])), tmp_path / "cache.sqlite"
    process = multiprocessing.get_context("spawn").Process(
        target=_encode_and_die, args=(cache, spec)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert Path(f"{cache}-journal").stat().st_size > 0  # it was in the middle
    _check_holds_right_vectors(cache, spec, tmp_path, at_least=512)


def _n_rows(cache: Path) -> int:
    with sqlite3.connect(cache) as database:
        return int(database.execute("SELECT count(*) FROM vectors").fetchone()[0])


def _check_holds_right_vectors(
    cache: Path, spec: EncoderSpec, tmp_path: Path, at_least: int
) -> None:
    """What is in the cache is whole and right, and the next run goes on from it."""
    expected = encode_cached(_MANY, spec, tmp_path / "undisturbed.sqlite", "cpu")
    with sqlite3.connect(cache) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    kept = _n_rows(cache)
    assert at_least <= kept < len(_MANY)
    n_encoded = []

    class Counting(TextEncoder):
        def encode(self, texts: list[str]):  # type: ignore[no-untyped-def]
            n_encoded.append(len(texts))
            return super().encode(texts)

    np.testing.assert_array_equal(encode_cached(_MANY, spec, cache, "cpu", Counting), expected)
    assert sum(n_encoded) == len(_MANY) - kept


def test_a_disk_that_cannot_be_written(
    tiny_encoders: dict[str, Path], small_disk: Callable[[str], Path]
) -> None:
    spec = EncoderSpec(str(tiny_encoders["bert"]))
    folder = small_disk("size=1m")
    film = encode_cached(["film"], spec, folder / "cache.sqlite", "cpu")
    small_disk("ro")

    def load(*_: Any) -> TextEncoder:
        raise AssertionError("nothing may be encoded for a cache that cannot be written")

    np.testing.assert_array_equal(
        encode_cached(["film"], spec, folder / "cache.sqlite", "cpu", load), film
    )
    for cache in ("cache.sqlite", "new.sqlite", "new/cache.sqlite"):
        with pytest.raises(UnavailableError, match=f"text_cache .*{cache}: .*make it writable"):
            encode_cached(["a film"], spec, folder / cache, "cpu", load)


def test_a_cache_file_that_is_somebody_elses(
    tiny_encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, cache = EncoderSpec(str(tiny_encoders["bert"])), tmp_path / "cache.sqlite"
    film = encode_cached(["film"], spec, cache, "cpu")

    def connect(path: Path, **kwargs: Any) -> sqlite3.Connection:
        return sqlite3.Connection(f"file:{path}?mode=ro", uri=True, **kwargs)

    def load(*_: Any) -> TextEncoder:
        raise AssertionError("nothing may be encoded for a cache that cannot be written")

    monkeypatch.setattr("recbole_llm.text_cache.sqlite3.connect", connect)
    np.testing.assert_array_equal(encode_cached(["film"], spec, cache, "cpu", load), film)
    with pytest.raises(
        UnavailableError, match=r"cache\.sqlite: attempt to write a readonly database"
    ):
        encode_cached(["a film"], spec, cache, "cpu", load)
