"""The state: by hand, and over thirty days against a plain Python account of them."""

import datetime
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession
from pyspark.testing import assertDataFrameEqual

from recbole_llm.warehouse import Warehouse
from spark_jobs import schemas
from spark_jobs.config import load_night_config
from spark_jobs.job import Job
from spark_jobs.prepare_features import prepare
from spark_jobs.state import empty_state, extend_sequences, find_arrivals, keep_recent, merge_items
from tests.data import write_events

pytestmark = pytest.mark.spark
EVENTS = "user_id string, item_id string, timestamp bigint, ds date, reason string"
FIRST = datetime.date(1970, 1, 1)
N_DAYS, MAX_LATE_DAYS, MAX_HISTORY = 30, 3, 8


def test_a_state_by_hand(spark: SparkSession) -> None:
    before = spark.createDataFrame(
        [("u", ["a", "b", "d"], [1, 7, 9], 5, 1, 0), ("away", ["a"], [2], 1, 0, 0)],
        schemas.SEQUENCES,
    )
    recent = spark.createDataFrame([("u", "b", 7), ("u", "d", 9)], schemas.RECENT)
    day = datetime.date(1970, 1, 2)
    events = spark.createDataFrame(
        [
            ("u", "d", 9, day, None), ("u", "b", 7, day, None), ("u", "b", 7, day, None),  # known
            ("u", "a", 7, day, None), ("u", "d", 90_000, day, None), ("u", "d", 90_000, day, None),
            ("u", "z", 8, day, "unknown_item"), ("w", "z", 8, day, "unknown_item"),
            ("x", "a", 8, day, "bad_rating"), ("new", "c", 90_001, day, None),
        ],
        EVENTS,
    )  # fmt: skip
    arrivals = find_arrivals(events, recent, FIRST)
    expected = {
        ("u", "d", 9, False, False, 1), ("u", "b", 7, False, False, 2), ("u", "a", 7, True, True, 0),
        ("u", "d", 90_000, True, False, 1), ("new", "c", 90_001, True, False, 0),
    }  # fmt: skip
    assert {tuple(row) for row in arrivals.collect()} == expected
    sequences = extend_sequences(before, arrivals, events, max_history=4)
    after = [
        ("u", ["a", "b", "d", "d"], [7, 7, 9, 90_000], 7, 5), ("w", [], [], 0, 0),
        ("away", ["a"], [2], 1, 0), ("new", ["c"], [90_001], 1, 0),
    ]  # fmt: skip
    columns = schemas.SEQUENCES.fieldNames()[:-1]
    expected_rows = spark.createDataFrame(after, schemas.SEQUENCES[:-1])
    assertDataFrameEqual(sequences.select(columns), expected_rows)
    hashes = {row["user_id"]: row["history_hash"] for row in sequences.collect()}
    assert len(set(hashes.values())) == 4


@pytest.mark.parametrize(
    ("max_late_days", "kept"), [(0, ["new"]), (1, ["new"]), (2, ["new", "old"])]
)
def test_recent_holds_the_day_and_what_may_be_repeated(
    spark: SparkSession, max_late_days: int, kept: list[str]
) -> None:
    recent = spark.createDataFrame([("u", "older", 0), ("u", "old", 86_400)], schemas.RECENT)
    arrivals = spark.createDataFrame(
        [("u", "new", 172_800, True), ("u", "old", 86_400, False)],
        "user_id string, item_id string, timestamp bigint, is_new boolean",
    )
    after = keep_recent(recent, arrivals, datetime.date(1970, 1, 3), max_late_days)
    assert sorted(row["item_id"] for row in after.collect()) == kept


def test_a_catalogue_by_hand(spark: SparkSession) -> None:
    one, two, three = (datetime.date(2024, 5, day) for day in (1, 2, 3))
    before = [("old", "Old", "", "", 4, one, True), ("back", "Back", "", "", 0, one, False)]
    items = spark.createDataFrame(before, schemas.ITEMS)
    catalogue = spark.createDataFrame(
        [
            ("back", "Back again", "x", "y", True, three), ("off", "Off", "", "", False, three),
            ("brief", "Brief", "", "", True, two), ("new", "Draft", "", "", False, two),
            ("new", "New", "", "", True, three),
        ],
        "item_id string, title string, category string, description string, available boolean, ds date",
    )  # fmt: skip
    days = ["2024-05-02", "2024-05-03"]
    after = [
        ("old", "Old", "", "", 4, one, False), ("back", "Back again", "x", "y", 0, one, True),
        ("off", "Off", "", "", 0, three, False), ("brief", "Brief", "", "", 0, two, False),
        ("new", "New", "", "", 0, two, True),
    ]  # fmt: skip
    assertDataFrameEqual(
        merge_items(items, catalogue, days, None), spark.createDataFrame(after, schemas.ITEMS)
    )
    first = merge_items(empty_state(spark).items, catalogue, days, one).collect()
    assert {row["item_id"]: row["first_seen"] for row in first} == {
        "back": three, "off": three, "brief": one, "new": one
    }  # fmt: skip
    assertDataFrameEqual(merge_items(items, catalogue.limit(0), [], None), items)


@dataclass
class Account:
    """What the generated days must come to, kept row by row."""

    events: set[tuple[str, str, int]] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def sequences(self) -> list[tuple[Any, ...]]:
        users = {user for user, _, _ in self.events} | self.strangers
        rows = []
        for user in sorted(users):
            mine = sorted((second, item) for other, item, second in self.events if other == user)
            last = mine[-MAX_HISTORY:]
            rows.append(
                (user, [item for _, item in last], [second for second, _ in last], len(mine))
            )
        return rows


def _write_days(warehouse: Warehouse) -> tuple[list[str], Account]:
    """Thirty days with late, repeated, misplaced and malformed events, and three catalogues."""
    random_ = random.Random(5)
    account = Account()
    start = datetime.date(2024, 5, 1)
    days = [(start + datetime.timedelta(days=n)).isoformat() for n in range(N_DAYS)]
    catalogues = {0: range(12), 10: range(2, 16), 20: range(4, 20)}
    first_seen = {f"i{item}": day for day, held in reversed(catalogues.items()) for item in held}
    for number, held in catalogues.items():
        folder = warehouse.raw_items / f"ds={days[number]}"
        folder.mkdir(parents=True)
        lines = [json.dumps({"item_id": f"i{n}", "title": f"Title {n} of {number}"}) for n in held]
        (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    midnight = 1_714_521_600  # 2024-05-01T00:00:00Z
    told: list[tuple[str, str, int]] = []
    for number, day in enumerate(days):
        rows: list[dict[str, object] | str] = []
        for _ in range(random_.randint(0, 50) if number else 60):
            age = random_.choice([0, 0, 0, 0, 1, 2, 3, 4, 9]) if number else random_.randint(0, 99)
            second = midnight + 86_400 * (number - age) + random_.randrange(86_400)
            event = (f"u{random_.randrange(15)}", f"i{random_.randrange(22)}", second)
            if told and random_.random() < 0.2:
                event = random_.choice(told[-40:])  # once more, perhaps too late by now
            told.append(event)
            user, item, second = event
            rows += [{"user_id": user, "item_id": item, "timestamp": second}]
            account.counts["raw"] += 1
            is_late = second < midnight + 86_400 * number
            if number and second < midnight + 86_400 * (number - MAX_LATE_DAYS):
                account.counts["quarantined"] += 1
            elif number < first_seen.get(item, N_DAYS):
                account.strangers.add(user)
                account.counts["quarantined"] += 1
            elif event in account.events:
                account.counts["duplicate"] += 1
            else:
                account.events.add(event)
                account.counts["accepted"] += 1
                account.counts["late"] += bool(number) and is_late
        if random_.random() < 0.5:
            rows += ["{broken", {"user_id": "v", "item_id": "i4", "timestamp": "soon"}]
            account.counts["raw"] += 2
            account.counts["quarantined"] += 2
        random_.shuffle(rows)
        write_events(warehouse.raw_events, day, rows)
    return days, account


def _rows(warehouse: Warehouse, day: str, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    path = warehouse.root / warehouse.features_manifest(day)["path"] / table
    with duckdb.connect() as database:
        return database.execute(f"SELECT {columns} FROM '{path}/*.parquet' ORDER BY ALL").fetchall()


@pytest.mark.slow
def test_thirty_nights_give_what_the_raw_events_give(
    spark: SparkSession, tmp_path: Path, small_night_config: Path
) -> None:
    text = small_night_config.read_text().replace(
        "max_history: 1000 ", f"max_history: {MAX_HISTORY} "
    )
    small_night_config.write_text(text.replace("partitions: 2 ", "partitions: 1 "))
    config = load_night_config(small_night_config)
    assert (config.max_late_days, config.max_history) == (MAX_LATE_DAYS, MAX_HISTORY)
    nightly, at_once, with_gaps = (Warehouse(tmp_path / name) for name in ("n", "o", "g"))
    days, account = _write_days(nightly)
    for other in (at_once, with_gaps):
        other.root.mkdir()
        (other.root / "raw").symlink_to(nightly.root / "raw")
    gaps = [days[0], days[1], days[9], days[21], days[-1]]
    for warehouse, nights in ((nightly, days), (at_once, days[-1:]), (with_gaps, gaps)):
        for day in nights:
            prepare(Job(spark, warehouse, config, day))
    last = days[-1]
    for table in ("sequences", "items", "recent"):
        expected = _rows(nightly, last, table)
        assert _rows(at_once, last, table) == expected
        assert _rows(with_gaps, last, table) == expected
        assert expected
    columns = "user_id, item_ids, timestamps, n_events"
    assert _rows(nightly, last, "sequences", columns) == account.sequences()
    assert account.counts["late"] > 20
    assert account.counts["duplicate"] > 20
    for warehouse in (nightly, at_once, with_gaps):
        manifests = warehouse.features_manifests().values()
        assert {
            kind: sum(manifest[f"{kind}_rows"] for manifest in manifests)
            for kind in ("raw", "accepted", "late", "quarantined", "duplicate")
        } == dict(account.counts)
    assert nightly.features_manifest(last)["base"]["ds"] == days[-2]
    assert at_once.features_manifest(last)["base"] is None
