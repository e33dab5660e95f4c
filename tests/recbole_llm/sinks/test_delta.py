"""What Delta adds: versions that can be read later, and two loads of which one wins."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from recbole_llm.errors import NotFoundError, UnavailableError
from recbole_llm.published import withdraw_days
from recbole_llm.sinks import open_sink
from recbole_llm.sinks.run_files import COLUMNS, RunFiles
from recbole_llm.sync import sync
from tests.recbole_llm.sinks.conftest import DAY, NEXT, USERS, Nights


def _rows(place: Path, version: int | None = None) -> pa.Table:
    table = DeltaTable(place, version=version).to_pyarrow_table(columns=COLUMNS.names)
    return table.sort_by([("ds", "ascending"), ("user_id", "ascending"), ("rank", "ascending")])


def test_a_version_before_is_the_table_of_before(nights: Nights, tmp_path: Path) -> None:
    place = tmp_path / "delta"
    with closing(open_sink(f"delta:{place}")) as sink:
        nights.publish(DAY, "a")
        nights.publish(NEXT, "b")
        sync(nights.warehouse, sink)
        nights.publish(NEXT, "c")
        sync(nights.warehouse, sink)
    version = DeltaTable(place).version()
    assert set(_rows(place)["run_id"].to_pylist()) == {"a", "c"}
    before = _rows(place, version - 1)
    expected = [*nights.rows["a"], *nights.rows["b"]]
    expected.sort(key=lambda row: (row["ds"], row["user_id"], row["rank"]))
    assert before.cast(COLUMNS).equals(pa.Table.from_pylist(expected, COLUMNS))
    history = DeltaTable(place).history()
    assert [entry["run_id"] for entry in history[:3]] == ["c", "b", "a"]


def test_what_was_withdrawn_is_deleted_once_a_week_is_over(nights: Nights, tmp_path: Path) -> None:
    place = tmp_path / "delta"
    with closing(open_sink(f"delta:{place}")) as sink:
        for day, run in ((DAY, "a"), (NEXT, "b"), (NEXT, "c")):
            nights.publish(day, run)
            sync(nights.warehouse, sink)
        withdraw_days(nights.warehouse, NEXT)
        sync(nights.warehouse, sink)
        assert len([*place.rglob("*.parquet")]) == 3
        a_week = {"delta.deletedFileRetentionDuration": "interval 0 days"}
        DeltaTable(place).alter.set_table_properties(a_week, raise_if_not_exists=False)
    with closing(open_sink(f"delta:{place}")) as sink:
        assert sync(nights.warehouse, sink) == []
        assert sink.loaded() == {NEXT: "c"}
    (left,) = place.rglob("*.parquet")
    assert set(pq.read_table(left)["run_id"].to_pylist()) == {"c"}


def test_who_looked_before_another_load_is_refused(nights: Nights, tmp_path: Path) -> None:
    place = f"delta:{tmp_path}/delta"
    with closing(open_sink(place)) as first, closing(open_sink(place)) as second:
        nights.publish(DAY, "a")
        sync(nights.warehouse, first)
        nights.publish(DAY, "b")
        with first.lock():
            assert first.loaded() == {DAY: "a"}
            late = RunFiles(nights.warehouse.root, nights.warehouse.published_run(DAY))
            nights.publish(DAY, "c")
            assert sync(nights.warehouse, second) == [DAY]
            with pytest.raises(UnavailableError, match="loading run b"):
                first.load(late)
        assert sync(nights.warehouse, first) == []
        assert first.loaded() == {DAY: "c"}


def test_a_load_that_breaks_off_leaves_the_version_of_before(
    nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"delta:{tmp_path}/delta"
    nights.publish(DAY, "a")
    with closing(open_sink(place)) as sink:
        sync(nights.warehouse, sink)
    nights.publish(DAY, "b")
    whole = RunFiles.batches

    def batches(self: RunFiles, columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield next(whole(self, columns))
        raise OSError("no such disk")

    with monkeypatch.context() as patch:
        patch.setattr(RunFiles, "batches", batches)
        with (
            closing(open_sink(place)) as sink,
            pytest.raises(UnavailableError, match="no such disk"),
        ):
            sync(nights.warehouse, sink)
    with closing(open_sink(place)) as sink:
        assert sink.loaded() == {DAY: "a"}
        assert sync(nights.warehouse, sink) == [DAY]
        assert sink.loaded() == {DAY: "b"}


def test_a_table_that_was_never_loaded_is_named(tmp_path: Path) -> None:
    sink = open_sink(f"delta:{tmp_path}/none")
    with pytest.raises(NotFoundError, match=f"no Delta table at {tmp_path}/none: sync it first"):
        sink.user_rows("u1", None, 3)


def test_users_are_forgotten_in_all_versions(nights: Nights, tmp_path: Path) -> None:
    place = tmp_path / "delta"
    sink = open_sink(f"delta:{place}")
    for day, run_id in ((DAY, "a"), (NEXT, "b"), (DAY, "c")):
        nights.publish(day, run_id)
        sync(nights.warehouse, sink)
    assert sink.forget([USERS[0], USERS[3], "' OR true --"]) == 12
    rows = _rows(place)
    assert set(rows["user_id"].to_pylist()) == {USERS[1], USERS[2]}
    assert open_sink(f"delta:{place}").loaded() == {DAY: "c", NEXT: "b"}
    for path in filter(Path.is_file, place.rglob("*")):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path).to_pylist()).encode()
        assert b"quoted" not in content, path
        assert "ü4" not in content.decode(errors="replace"), path
    nights.publish(NEXT, "d")
    sync(nights.warehouse, sink)
    assert sink.loaded() == {DAY: "c", NEXT: "d"}


def test_a_table_of_before_gets_the_new_column(nights: Nights, tmp_path: Path) -> None:
    place, older = (
        tmp_path / "delta",
        pa.schema([field for field in COLUMNS if field.name != "why"]),
    )
    nights.publish(DAY, "a")
    rows = pa.Table.from_pylist(nights.rows["a"], older)
    write_deltalake(str(place), rows, partition_by=["ds"])
    nights.publish(NEXT, "b")
    with closing(open_sink(f"delta:{place}")) as sink:
        assert sync(nights.warehouse, sink) == [NEXT]
        assert [row["why"] for row in sink.user_rows("u1", DAY, 2)] == [None, None]
        assert [row["why"] for row in sink.user_rows("u1", NEXT, 2)] == [
            nights.rows["b"][0]["why"],
            None,
        ]
