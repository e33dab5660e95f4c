"""The state: by hand, and over thirty days against a plain Python account of them."""

import datetime
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
from tests.thirty_days import MAX_HISTORY, MAX_LATE_DAYS, write_days

pytestmark = pytest.mark.spark
EVENTS = schemas.CHECKED_EVENTS[:-1]
FIRST = datetime.date(1970, 1, 1)


def test_a_state_by_hand(spark: SparkSession) -> None:
    before = spark.createDataFrame(
        [
            ("u", ["a", "b", "d"], [1, 7, 9], 5, 1, ["q"], [], [], [], "de", 8, 0),
            ("away", ["a"], [2], 1, 0, [], [], [], ["x"], "at", 2, 0),
        ],
        schemas.SEQUENCES,
    )
    recent = spark.createDataFrame([("u", "b", 7, ""), ("u", "d", 9, "")], schemas.RECENT)
    day = datetime.date(1970, 1, 2)
    events = spark.createDataFrame(
        [
            # known to the state
            ("u", "d", 9, "", "fr", day, None), ("u", "b", 7, "", None, day, None),
            ("u", "b", 7, "", None, day, None),
            ("u", "a", 7, "", "it", day, None), ("u", "d", 90_000, "", None, day, None),
            ("u", "d", 90_000, "", "ch", day, None),
            ("u", "z", 8, "", None, day, "unknown_item"),
            ("w", "z", 8, "", "de", day, "unknown_item"),
            ("x", "a", 8, "", None, day, "bad_rating"), ("new", "c", 90_001, "like", None, day, None),
            ("u", "d", 90_000, "hide", "ch", day, None),
            ("hider", "p", 90_002, "hide", "fr", day, None),
            *[("hider", "k", 90_001, "hide", None, day, None)] * 2,
        ],
        EVENTS,
    )  # fmt: skip
    arrivals = find_arrivals(events, recent, FIRST)
    expected = {
        ("u", "d", 9, "", "fr", False, False, 1), ("u", "b", 7, "", None, False, False, 2),
        ("u", "a", 7, "", "it", True, True, 0), ("u", "d", 90_000, "", None, True, False, 1),
        ("new", "c", 90_001, "like", None, True, False, 0),
        ("u", "d", 90_000, "hide", "ch", True, False, 0),
        ("hider", "p", 90_002, "hide", "fr", True, False, 0),
        ("hider", "k", 90_001, "hide", None, True, False, 1),
    }  # fmt: skip
    assert {tuple(row) for row in arrivals.collect()} == expected
    wishes = spark.createDataFrame(
        [("u", ["d", "q"], ["q"], ["b", "q"], ["x", "y"]), ("hider", ["k", "p"], [], [], None)],
        "user_id string, blocked_ids array<string>, disliked_ids array<string>, "
        "unread_ids array<string>, damped_categories array<string>",
    )
    sequences = extend_sequences(before, arrivals, events, wishes, max_history=4)
    wish = (["d", "q"], ["q"], ["b", "q"], ["x", "y"])
    after = [
        ("u", ["a", "b", "d", "d"], [7, 7, 9, 90_000], 8, 5, *wish, "ch", 90_000),
        ("w", [], [], 0, 0, [], [], [], [], None, None),
        ("away", ["a"], [2], 1, 0, [], [], [], [], "at", 2),
        ("new", ["c"], [90_001], 1, 0, [], [], [], [], None, None),
        ("hider", [], [], 2, 1, ["k", "p"], [], [], [], "fr", 90_002),
    ]  # fmt: skip
    columns = schemas.SEQUENCES.fieldNames()[:-1]
    expected_rows = spark.createDataFrame(after, schemas.SEQUENCES[:-1])
    assertDataFrameEqual(sequences.select(columns), expected_rows)
    hashes = {row["user_id"]: row["state_hash"] for row in sequences.collect()}
    assert len(set(hashes.values())) == 5


@pytest.mark.parametrize(
    ("max_late_days", "kept"), [(0, ["new"]), (1, ["new"]), (2, ["new", "old"])]
)
def test_recent_holds_the_day_and_what_may_be_repeated(
    spark: SparkSession, max_late_days: int, kept: list[str]
) -> None:
    recent = spark.createDataFrame(
        [("u", "older", 0, ""), ("u", "old", 86_400, "hide")], schemas.RECENT
    )
    arrivals = spark.createDataFrame(
        [("u", "new", 172_800, "", True), ("u", "old", 86_400, "hide", False)],
        "user_id string, item_id string, timestamp bigint, says string, is_new boolean",
    )
    after = keep_recent(recent, arrivals, datetime.date(1970, 1, 3), max_late_days)
    assert sorted(row["item_id"] for row in after.collect()) == kept


def test_a_catalogue_by_hand(spark: SparkSession) -> None:
    one, two, three = (datetime.date(2024, 5, day) for day in (1, 2, 3))
    before = [
        ("old", "Old", "", "", "old.png", "", 4, one, True, ["de"], one, ["back"]),
        ("back", "Back", "", "", "back.png", "", 0, one, False, ["de"], None, ["old"]),
    ]  # fmt: skip
    items = spark.createDataFrame(before, schemas.ITEMS)
    catalogue = spark.createDataFrame(
        [
            ("back", "Back again", "x", "y", "", "back.wav", True, ["at", "de"], two, [], three),
            ("off", "Off", "", "", "", "", False, [], None, [], three),
            ("brief", "Brief", "", "", "", "", True, ["fr"], None, [], two),
            ("new", "Draft", "", "", "draft.png", "", False, ["fr"], one, [], two),
            ("new", "New", "", "", "new.png", "", True, [], None, ["old"], three),
        ],
        "item_id string, title string, category string, description string, image string, "
        "audio string, available boolean, markets array<string>, published_on date, "
        "requires array<string>, ds date",
    )  # fmt: skip
    days = ["2024-05-02", "2024-05-03"]
    after = [
        ("old", "Old", "", "", "old.png", "", 4, one, False, ["de"], one, ["back"]),
        ("back", "Back again", "x", "y", "", "back.wav", 0, one, True, ["at", "de"], two, []),
        ("off", "Off", "", "", "", "", 0, three, False, [], None, []),
        ("brief", "Brief", "", "", "", "", 0, two, False, ["fr"], None, []),
        ("new", "New", "", "", "new.png", "", 0, two, True, [], None, ["old"]),
    ]  # fmt: skip
    assertDataFrameEqual(
        merge_items(items, catalogue, days, None), spark.createDataFrame(after, schemas.ITEMS)
    )
    first = merge_items(empty_state(spark).items, catalogue, days, one).collect()
    assert {row["item_id"]: row["first_seen"] for row in first} == {
        "back": three, "off": three, "brief": one, "new": one
    }  # fmt: skip
    assertDataFrameEqual(merge_items(items, catalogue.limit(0), [], None), items)


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
    text = text.replace("markets: [] ", "markets: [at, de] ")
    small_night_config.write_text(text.replace("partitions: 2 ", "partitions: 1 "))
    config = load_night_config(small_night_config)
    assert (config.max_late_days, config.max_history) == (MAX_LATE_DAYS, MAX_HISTORY)
    nightly, at_once, with_gaps = (Warehouse(tmp_path / name) for name in ("n", "o", "g"))
    days, account = write_days(nightly)
    for other in (at_once, with_gaps):
        other.root.mkdir()
        (other.root / "raw").symlink_to(nightly.root / "raw")
    gaps = [days[0], days[1], days[9], days[21], days[-1]]
    for warehouse, nights in ((nightly, days), (at_once, days[-1:]), (with_gaps, gaps)):
        for day in nights:
            prepare(Job(spark, warehouse, config, day))
    last = days[-1]
    for table in ("sequences", "items", "opinions", "recent"):
        expected = _rows(nightly, last, table)
        assert _rows(at_once, last, table) == expected
        assert _rows(with_gaps, last, table) == expected
        assert expected
    columns = (
        "user_id, item_ids, timestamps, n_events, blocked_ids, disliked_ids, unread_ids, "
        "damped_categories, market"
    )
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
