"""A foreign error is reported, ours are not, and an input that ends its process is not lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz import __main__ as command
from benchmarks.fuzz import tally as tallies
from benchmarks.fuzz.event_lines import read_batch
from benchmarks.fuzz.tally import Tally, catch_hangs
from benchmarks.fuzz.target import Target
from benchmarks.fuzz.worker import with_hypothesis
from recbole_llm.config_files import flags_as_dict
from recbole_llm.errors import DataError


def _tally(folder: Path) -> Tally:
    return Tally(folder / "account.json", folder / "inputs")


def test_foreign_errors_are_kept_once_each(tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        if data == b"ours":
            raise DataError("of ours")
        if data == b"foreign":
            flags_as_dict([None])  # type: ignore[list-item]
        if data == b"here":
            raise KeyError

    tally = _tally(tmp_path)
    for data in (b"fine", b"ours", b"foreign", b"foreign", b"here"):
        tally.check(read, data)
    tally.save()
    account = json.loads((tmp_path / "account.json").read_text())
    assert account["inputs"] == 5
    place = "recbole_llm/config_files.py:flags_as_dict"
    assert account["errors"] == [
        {"type": "AttributeError", "place": place, "times": 2},
        {"type": "KeyError", "place": "the target itself", "times": 1},
    ]
    kept = {path.read_bytes() for path in (tmp_path / "inputs").iterdir()}
    assert kept == {b"foreign", b"here"}


def test_an_input_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(tallies, "HANG_S", 0.1)
    catch_hangs()
    tally = _tally(tmp_path)
    tally.check(read, b"")
    assert [error["type"] for error in tally.errors.values()] == ["Hang"]


def test_lines_that_vanish_or_fail_are_found(tmp_path: Path) -> None:
    def count(lines: list[bytes]) -> int:
        if b"fails" in lines:
            raise ValueError
        return len(lines) - lines.count(b"vanishes")

    lines = [b"%d" % n for n in range(100)]
    tally = _tally(tmp_path)
    read_batch(tally, lines, count)
    assert tally.errors == {}
    read_batch(tally, [*lines, b"vanishes", *lines], count)
    read_batch(tally, [b"fails", *lines], count)
    assert tally.inputs == 402
    assert [error["type"] for error in tally.errors.values()] == ["lines that vanish", "ValueError"]
    assert {path.read_bytes() for path in (tmp_path / "inputs").iterdir()} == {
        b"vanishes",
        b"fails",
    }


@pytest.mark.parametrize("name", ["flags", "user keys"])
def test_a_second_of_a_target(name: str, tmp_path: Path) -> None:
    row = command.fuzz(name, 1.0, tmp_path, tmp_path / "kept")
    assert row["inputs"] > 0
    assert row["foreign_errors"] == []
    rows = {"a": row, "b": {"inputs": 1, "foreign_errors": [{}, {}]}}
    assert command.figures(rows) == {"inputs": row["inputs"] + 1, "foreign_errors": 2}


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    (account,) = command.run_engine("no such target", "hypothesis", 1.0, tmp_path, tmp_path)
    assert account["errors"] == [{"type": "exit 1", "place": "the process", "times": 1}]


def test_a_planted_error_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.fuzz import worker

    def read(data: bytes) -> None:
        json.loads(data or b"[")

    def made(*_: Any) -> Target:
        from benchmarks.fuzz.shapes import json_documents

        return Target(read, [], json_documents(b'{"a": [1]}'))

    monkeypatch.setattr(worker, "_made", made)
    tally = _tally(tmp_path)
    with_hypothesis("planted", tally, 1.0, 0, tmp_path)
    assert tally.inputs > 10
    assert {"RecursionError", "JSONDecodeError"} & {each["type"] for each in tally.errors.values()}
