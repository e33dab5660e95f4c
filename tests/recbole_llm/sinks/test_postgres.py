"""What PostgreSQL adds: whole days for every reader, constraints, errors that help."""

import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from recbole_llm.cli import main as cli
from recbole_llm.errors import ConfigError, DataError, UnavailableError
from recbole_llm.sinks import open_sink, postgres
from recbole_llm.sinks.run_files import COLUMNS, RunFiles
from tests.conftest import HOME
from tests.recbole_llm.sinks.conftest import (
    DAY,
    NEXT,
    USERS,
    Connection,
    Nights,
    sync_to,
    tables_of,
)

LATEST = b"SELECT count(*), count(DISTINCT run_id), min(run_id) FROM recommendations_latest"


def _parted(monkeypatch: pytest.MonkeyPatch, halfway: Callable[[], object]) -> None:
    """Let something happen when the first half of a table is on its way."""
    whole = RunFiles.batches

    def batches(self: RunFiles, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(whole(self, columns)):
            if number == 1:
                halfway()
            yield batch

    monkeypatch.setattr(RunFiles, "batches", batches)


def test_the_table_is_the_run_and_is_found_by_its_key(
    nights: Nights, address: str, asked: Connection
) -> None:
    nights.publish(DAY, "a")
    nights.publish(NEXT, "b")
    sync_to(nights, address)
    rows = asked.execute("SELECT * FROM recommendations ORDER BY ds, user_id, rank").fetchall()
    expected = [*nights.rows["a"], *nights.rows["b"]]
    expected.sort(key=lambda row: (row["ds"], row["user_id"], row["rank"]))
    assert [row[:4] + row[5:] for row in rows] == [
        tuple(row[name] for name in COLUMNS.names if name != "score") for row in expected
    ]
    assert [row[4] for row in rows] == pytest.approx([row["score"] for row in expected], rel=1e-7)
    partitions = asked.execute(
        "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits JOIN pg_class c ON oid = inhrelid"
        " WHERE inhparent = 'recommendations'::regclass ORDER BY 1"
    ).fetchall()
    assert partitions == [(f"FOR VALUES IN ('{day}')",) for day in (DAY, NEXT)]
    loads = asked.execute("SELECT ds::text, run_id, n_rows FROM recommendations_loads ORDER BY ds")
    assert loads.fetchall() == [(DAY, "a", 12), (NEXT, "b", 12)]
    asked.execute("SET enable_seqscan = off")
    plan = asked.execute(
        "EXPLAIN SELECT * FROM recommendations_latest WHERE user_id = 'u1'"
    ).fetchall()
    (scan,) = [line for (line,) in plan if " on recommendations_" in line]
    assert " on recommendations_20240502_" in scan  # the other day is not looked at
    assert any("Index Cond: " in line and "user_id = 'u1'" in line for (line,) in plan)


def test_tables_of_before_get_the_new_column(
    nights: Nights, address: str, asked: Connection
) -> None:
    nights.publish(DAY, "a")
    sync_to(nights, address)
    asked.execute("DROP VIEW recommendations_latest; ALTER TABLE recommendations DROP COLUMN why")
    asked.execute("CREATE VIEW recommendations_latest AS SELECT * FROM recommendations")
    nights.publish(NEXT, "b")
    assert sync_to(nights, address) == [NEXT]
    rows = asked.execute("SELECT ds::text, why FROM recommendations WHERE rank = 1").fetchall()
    assert {why for day, why in rows if day == DAY} == {None}
    latest = asked.execute("SELECT DISTINCT why FROM recommendations_latest WHERE rank = 1")
    assert latest.fetchall() == [(nights.rows["b"][0]["why"],)]


def test_users_are_forgotten_in_all_days(nights: Nights, address: str, asked: Connection) -> None:
    nights.publish(DAY, "a")
    nights.publish(NEXT, "b")
    sync_to(nights, address)
    with closing(open_sink(address)) as sink, sink.lock():
        assert sink.forget([USERS[0], USERS[2], "nobody"]) == 12
        assert sink.forget([USERS[0], "' OR true --"]) == 0
    left = asked.execute("SELECT DISTINCT user_id FROM recommendations").fetchall()
    assert sorted(user for (user,) in left) == sorted([USERS[1], USERS[3]])
    loads = asked.execute("SELECT ds::text, n_rows FROM recommendations_loads ORDER BY ds")
    assert loads.fetchall() == [(DAY, 6), (NEXT, 6)]


def test_a_reader_sees_one_whole_run_while_it_is_replaced(nights: Nights, address: str) -> None:
    users = [f"u{n}" for n in range(500)]
    seen: Counter[tuple[Any, ...]] = Counter()
    over = threading.Event()

    def read() -> None:
        with psycopg.connect(address, autocommit=True) as reader:
            while not over.is_set():
                seen[reader.execute(LATEST, prepare=True).fetchone() or ()] += 1

    def publish(day: str, run_id: str, latest: str) -> None:
        nights.publish(day, run_id, users)
        sync_to(nights, address)
        deadline = time.monotonic() + 60
        while (1500, 1, latest) not in seen:
            assert time.monotonic() < deadline, seen
            time.sleep(0.001)

    nights.publish(DAY, "first", users)
    sync_to(nights, address)
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        publish(DAY, "a", latest="a")
        publish(DAY, "b", latest="b")
        publish(NEXT, "c", latest="c")
        publish(DAY, "d", latest="c")
        publish(NEXT, "e", latest="e")
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert {each[:2] for each in seen} == {(1500, 1)}
    assert {each[2] for each in seen} - {"first"} == {"a", "b", "c", "e"}


def test_a_database_that_goes_away_in_the_middle_leaves_the_day_as_it_was(
    nights: Nights, address: str, asked: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.publish(DAY, "a")
    sync_to(nights, address)
    nights.publish(DAY, "b")

    def end_others() -> None:
        ended = asked.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE query LIKE 'COPY recommendations_loading%' AND pid <> pg_backend_pid()"
        )
        assert ended.fetchall() == [(True,)]

    with monkeypatch.context() as patch:
        _parted(patch, end_others)
        with pytest.raises(UnavailableError, match="loading run b: .*terminat"):
            sync_to(nights, address)
    assert asked.execute(LATEST).fetchone() == (12, 1, "a")
    assert "recommendations_loading" in tables_of(asked)
    assert sync_to(nights, address) == [DAY]
    assert asked.execute(LATEST).fetchone() == (12, 1, "b")
    assert len(tables_of(asked)) == 2  # the day's and that of loads


def test_a_killed_load_leaves_the_day_as_it_was(
    nights: Nights, address: str, asked: Connection
) -> None:
    nights.publish(DAY, "a")
    sync_to(nights, address)
    nights.publish(DAY, "b")
    code = (
        "import sys, time\n"
        "from recbole_llm.cli import main\n"
        "from recbole_llm.sinks.run_files import RunFiles\n"
        "whole = RunFiles.batches\n"
        "def batches(self, columns):\n"
        "    for batch in whole(self, columns):\n"
        "        yield batch\n"
        "        print('halfway', flush=True)\n"
        "        time.sleep(600)\n"
        "RunFiles.batches = batches\n"
        "main(['sync', '--warehouse', sys.argv[1], '--sink', sys.argv[2]])\n"
    )
    command = [sys.executable, "-c", code, str(nights.warehouse.root), address]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as loader:
        assert loader.stdout is not None
        assert loader.stdout.readline() == b"halfway\n"
        loader.send_signal(signal.SIGKILL)
    assert asked.execute(LATEST).fetchone() == (12, 1, "a")
    assert sync_to(nights, address) == [DAY]
    assert asked.execute(LATEST).fetchone() == (12, 1, "b")
    assert len(tables_of(asked)) == 2


def test_two_loads_at_once_are_one_after_the_other(
    nights: Nights, address: str, asked: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.publish(DAY, "a")
    changed: dict[str, list[str]] = {}

    def second() -> None:
        changed["second"] = sync_to(nights, address)

    thread = threading.Thread(target=second)

    def begin_second() -> None:
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        deadline = time.monotonic() + 60
        while asked.execute(waiting).fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    _parted(monkeypatch, begin_second)
    changed["first"] = sync_to(nights, address)
    thread.join()
    assert changed == {"first": [DAY], "second": []}


def test_a_swap_steps_back_from_an_older_reader(
    nights: Nights, address: str, asked: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.publish(DAY, "a")
    sync_to(nights, address)
    nights.publish(DAY, "b")
    monkeypatch.setattr(postgres, "_SWAP_TRIES", 1)
    monkeypatch.setattr(postgres, "_SWAP_WAIT_MS", 50)
    with asked.transaction():
        assert asked.execute(LATEST).fetchone() == (12, 1, "a")
        with pytest.raises(UnavailableError, match=f"so {DAY} stays what it was"):
            sync_to(nights, address)
        assert asked.execute(LATEST).fetchone() == (12, 1, "a")
    assert sync_to(nights, address) == [DAY]
    assert asked.execute(LATEST).fetchone() == (12, 1, "b")


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        ({"score": float("nan")}, "score_is_finite"),
        ({"score": float("-inf")}, "score_is_finite"),
        ({"rank": 0}, "rank_is_1_to_k"),
        ({"rank": 4}, "rank_is_1_to_k"),
        ({"rank": 2}, r"_pkey.*\(ds, user_id, rank\)=\(2024-05-01, ü4.*, 2\)"),
        ({"user_id": ""}, "user_id_is_not_empty"),
        ({"item_id": None}, '"item_id"'),
        ({"run_id": "other"}, "run_is_the_published"),
        ({"ds": datetime.date(2024, 5, 2)}, "ds_is_the_partition"),
    ],
)
def test_a_spoilt_table_is_refused(
    nights: Nights, address: str, asked: Connection, spoil: dict[str, Any], found: str
) -> None:
    nights.publish(DAY, "a")
    sync_to(nights, address)
    nights.publish(DAY, "b", spoil=spoil)
    with pytest.raises(DataError, match=f"loading run b: .*{found}"):
        sync_to(nights, address)
    assert asked.execute(LATEST).fetchone() == (12, 1, "a")


def test_another_table_of_that_name_is_left_alone(
    nights: Nights, address: str, asked: Connection
) -> None:
    nights.publish(DAY, "a")
    asked.execute("CREATE TABLE recommendations (id int)")
    with pytest.raises(ConfigError, match=r"has the columns \[\('id', 'integer'\)\], expected"):
        sync_to(nights, address)
    assert tables_of(asked) == ["recommendations"]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("postgres@", "secured@"), 2, "no password supplied"),
        (("postgres@/postgres", "postgres@/unmade"), 2, '"unmade" does not exist'),
        (("/tmp/pg-", "/tmp/away-"), 1, "No such file or directory"),
        (("search_path%3D", "search_path%3Dun"), 2, "no schema has been selected"),
    ],
)
def test_only_what_passes_is_worth_a_retry(
    nights: Nights, address: str, capsys: pytest.CaptureFixture[str],
    change: tuple[str, str], code: int, message: str,
) -> None:  # fmt: skip
    nights.publish(DAY, "a")
    root = ["--warehouse", str(nights.warehouse.root)]
    assert cli(["sync", *root, "--sink", address.replace(*change)]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "address", "extra"),
    [("psycopg", "postgresql://", "postgres"), ("deltalake", "delta:x", "delta")],
)
def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, address: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("postgres", "postgres_tables", "delta"):
        monkeypatch.delitem(sys.modules, f"recbole_llm.sinks.{name}", raising=False)
    with pytest.raises(
        ConfigError, match=rf"package {package}: pip install 'recbole-llm\[{extra}\]'"
    ):
        open_sink(address)
