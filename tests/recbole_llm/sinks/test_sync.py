"""What holds of every sink: it says what the pointer says."""

import datetime
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.cli import main as cli
from recbole_llm.errors import ArtifactError, ConfigError, NotFoundError, UnavailableError
from recbole_llm.parquet_tables import ParquetTables
from recbole_llm.published import roll_back
from recbole_llm.query import lookup
from recbole_llm.sinks import Sink, open_sink
from recbole_llm.sinks.run_files import COLUMNS, RunFiles
from recbole_llm.sync import sync, sync_all
from recbole_llm.warehouse import Warehouse
from tests.recbole_llm.sinks.conftest import DAY, NEXT, USERS, K, Nights


@pytest.fixture(params=["postgresql", "delta"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "delta":
        return f"delta:{tmp_path}/delta"
    address: str = request.getfixturevalue("address")
    return address


@pytest.fixture
def sink(place: str) -> Iterator[Sink]:
    with closing(open_sink(place)) as opened:
        yield opened


def _rows(nights: Nights, run_id: str, user: str, k: int = K) -> list[dict[str, Any]]:
    names = ("rank", "item_id", "reason", "why", "model_version", "run_id")
    return [
        {"ds": row["ds"].isoformat(), **{name: row[name] for name in names}}
        for row in nights.rows[run_id]
        if row["user_id"] == user and row["rank"] <= k
    ]


def _asked(tables: Any, user: str, day: str | None, k: int = K) -> list[dict[str, Any]]:
    rows = tables.user_rows(user, day, k)
    scores = [row.pop("score") for row in rows]
    assert scores == pytest.approx([1 / (3 * rank) for rank in range(1, len(rows) + 1)], rel=1e-7)
    return [dict(row) for row in rows]


def test_it_has_the_rows_of_the_published_files(nights: Nights, sink: Sink) -> None:
    nights.publish(DAY, "a")
    nights.publish(NEXT, "b")
    assert sync(nights.warehouse, sink) == [DAY, NEXT]
    with closing(ParquetTables(nights.warehouse)) as parquet:
        for tables in (sink, parquet):
            assert tables.loaded() == {DAY: "a", NEXT: "b"}
            for user in USERS:
                assert _asked(tables, user, DAY) == _rows(nights, "a", user)
                assert _asked(tables, user, None, 2) == _rows(nights, "b", user, 2)
            assert tables.user_rows("nobody", None, K) == []


def test_a_day_is_loaded_once(nights: Nights, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    nights.publish(DAY, "a")
    assert sync(nights.warehouse, sink, DAY) == [DAY]
    assert f"{DAY}: loaded run a, 12 rows" in caplog.text
    nights.publish(DAY, "a")  # repeated: another attempt, the same rows
    assert sync(nights.warehouse, sink, DAY) == []
    assert f"{DAY}: run a is loaded" in caplog.text


def test_one_day_is_replaced_and_no_other(nights: Nights, sink: Sink) -> None:
    nights.publish(DAY, "a")
    nights.publish(NEXT, "b")
    sync(nights.warehouse, sink)
    nights.publish(DAY, "c", USERS[:2])
    nights.publish(NEXT, "d")
    assert sync(nights.warehouse, sink, DAY) == [DAY]
    assert sink.loaded() == {DAY: "c", NEXT: "b"}
    assert _asked(sink, USERS[0], DAY) == _rows(nights, "c", USERS[0])
    assert _asked(sink, USERS[3], DAY) == []
    assert _asked(sink, USERS[3], None) == _rows(nights, "b", USERS[3])


def test_it_follows_the_pointer_back(nights: Nights, sink: Sink) -> None:
    nights.publish(DAY, "a")
    nights.publish(NEXT, "b")
    nights.publish(NEXT, "c")
    sync(nights.warehouse, sink)
    roll_back(nights.warehouse, NEXT)
    assert sync(nights.warehouse, sink, NEXT) == [NEXT]
    assert sink.loaded() == {DAY: "a", NEXT: "b"}
    roll_back(nights.warehouse, NEXT)
    assert sync(nights.warehouse, sink) == [NEXT]
    assert sync(nights.warehouse, sink, NEXT) == []
    assert sink.loaded() == {DAY: "a"}
    assert _asked(sink, "u1", None) == _rows(nights, "a", "u1")
    assert _asked(sink, "u1", NEXT) == []


def test_a_service_that_keeps_its_tables_sees_the_pointer_move(nights: Nights) -> None:
    nights.publish(DAY, "a")
    with closing(ParquetTables(nights.warehouse)) as tables:
        assert _asked(tables, "u1", None) == _rows(nights, "a", "u1")
        nights.publish(NEXT, "b")
        assert _asked(tables, "u1", None) == _rows(nights, "b", "u1")
        roll_back(nights.warehouse, NEXT)
        assert _asked(tables, "u1", None) == _rows(nights, "a", "u1")
        with pytest.raises(NotFoundError, match=f"no table for {NEXT}"):
            tables.user_rows("u1", NEXT, K)


def test_an_empty_warehouse_withdraws_nothing(nights: Nights, sink: Sink, tmp_path: Path) -> None:
    nights.publish(DAY, "a")
    sync(nights.warehouse, sink)
    with pytest.raises(NotFoundError, match="nothing is published"):
        sync(Warehouse(tmp_path / "mistyped"), sink)
    assert sink.loaded() == {DAY: "a"}


def test_files_that_are_not_the_published_ones_are_refused(nights: Nights, sink: Sink) -> None:
    nights.publish(DAY, "a")
    sync(nights.warehouse, sink)
    nights.publish(DAY, "b")
    folder = nights.warehouse.root / nights.warehouse.published_run(DAY)["path"]
    (folder / "part-1.parquet").unlink()
    with pytest.raises(ArtifactError, match="run b has 6 rows in 1 files .*, 12 were published"):
        sync(nights.warehouse, sink)
    assert sink.loaded() == {DAY: "a"}


def test_a_lookup_asks_any_source(
    nights: Nights, place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nights.publish(DAY, "a")
    root = ["--warehouse", str(nights.warehouse.root)]
    assert cli(["sync", *root, "--sink", place, "--day", DAY]) == 0
    ask = ["lookup", *root, "--user", USERS[1], "--k", "2", "--json"]
    assert cli(ask) == 0
    parquet = json.loads(capsys.readouterr().out)
    assert cli([*ask, "--source", place]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["item_id"] for row in found["recommendations"]] == [
        "=1+a-1-1<b>'--",
        "=1+a-1-2<b>'--",
    ]
    assert found == {**parquet, "path": None}
    # A reader needs the database alone.
    with closing(open_sink(place)) as sink:
        assert lookup(Warehouse(tmp_path / "none"), "u1", tables=sink).run_id == "a"
    assert cli([*ask[:-1], "--source", place, "--day", NEXT]) == 4
    assert f"no table for {NEXT}: 1 days are there" in capsys.readouterr().err
    ask[ask.index(USERS[1])] = "nobody"
    assert cli([*ask, "--source", place]) == 4
    assert f"user 'nobody' is not in the table of {DAY}" in capsys.readouterr().err


def test_one_sink_that_fails_does_not_keep_the_others_from_theirs(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nights.publish(DAY, "a")
    config = tmp_path / "nightly.yaml"
    down = "postgresql://postgres@/?host=/nowhere"
    config.write_text(f"sinks: ['mysql:x', '{down}', 'delta:{tmp_path}/delta']\n")
    command = ["sync", "--warehouse", str(nights.warehouse.root), "--config", str(config)]
    assert cli(command) == 1  # a retry may help the second, so it is told of first
    assert capsys.readouterr().err.startswith("UnavailableError: PostgreSQL, connecting: ")
    with closing(open_sink(f"delta:{tmp_path}/delta")) as sink:
        assert sink.loaded() == {DAY: "a"}
    with pytest.raises(ConfigError, match="got one that starts 'mysql'"):
        sync_all(nights.warehouse, ["mysql://user:secret@host"])
    with pytest.raises(UnavailableError):
        sync_all(nights.warehouse, [down])


def test_no_sinks_are_none_to_load(
    nights: Nights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = tmp_path / "nightly.yaml"
    config.write_text("sinks: []\n")
    root = str(nights.warehouse.root)
    assert cli(["sync", "--warehouse", root, "--config", str(config)]) == 0
    assert f"no sinks in {config}" in caplog.text
    config.write_text("sinks: delta:x\n")
    assert cli(["sync", "--warehouse", root, "--config", str(config)]) == 2


def test_columns_are_those_that_the_night_writes() -> None:
    from spark_jobs.schemas import RECOMMENDATIONS_ARROW

    assert COLUMNS.equals(RECOMMENDATIONS_ARROW)


def test_columns_of_one_value_are_told_by_the_files(nights: Nights) -> None:
    nights.publish(DAY, "a")
    run = nights.warehouse.published_run(DAY)
    constants = RunFiles(nights.warehouse.root, run).constants()
    assert constants == {
        "ds": datetime.date(2024, 5, 1),
        "model_version": "m1",
        "run_id": "a",
        "generated_at": datetime.datetime(2024, 5, 3, tzinfo=datetime.UTC),
    }
    nights.publish(DAY, "a", spoil={"model_version": None})
    run = nights.warehouse.published_run(DAY)
    assert "model_version" not in RunFiles(nights.warehouse.root, run).constants()
