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


def test_rows_are_kept_from_run_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, float]] = []

    def fuzz(name: str, seconds: float, *_: Path) -> dict[str, Any]:
        asked.append((name, seconds))
        return {"inputs": 10, "foreign_errors": [{}] * (name == "a")}

    def run(*flags: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["fuzz", "--minutes", "1", *flags])
        command.main()
        found: dict[str, Any] = json.loads((tmp_path / "fuzz.json").read_text())
        return found

    monkeypatch.setattr(command, "_PATH", tmp_path / "fuzz.json")
    monkeypatch.setattr(command, "TARGETS", {"a": None, "b": None})
    monkeypatch.setattr(command, "SPARK", {"c": None})
    monkeypatch.setattr(command, "fuzz", fuzz)
    about = {"command": "one", "versions": {}}
    monkeypatch.setattr(command, "describe_run", lambda: json.loads(json.dumps(about)))
    found = run("--targets", "a", "b")
    assert asked == [("a", 30.0), ("b", 30.0)]
    assert list(found) == ["targets"]
    assert "missing: ['c']" in capsys.readouterr().out
    about["command"] = "two"
    found = run("--missing")
    assert asked[2:] == [("c", 40.0)]
    assert found["figures"] == {"inputs": 30, "foreign_errors": 1}
    assert [row["command"] for row in found["targets"].values()] == ["one", "one", "two"]
    run()
    assert [name for name, _ in asked[3:]] == ["a", "b", "c"]
