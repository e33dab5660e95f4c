"""What is wrong with a raw row, row by row."""

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from spark_jobs import schemas
from spark_jobs.cleaning import check_events, check_items
from spark_jobs.config import load_night_config
from spark_jobs.raw_events import read_raw
from spark_jobs.screening import screened
from tests.conftest import HOME
from tests.data import write_events

pytestmark = pytest.mark.spark
CONFIG = replace(
    load_night_config(HOME / "configs" / "nightly.yaml"),
    user_ids="plain", first_day=datetime.date(2020, 1, 1), event_types=["view", "rate"],
    max_late_days=3,
)  # fmt: skip
DAY = datetime.date(2024, 5, 2)
NOON = 1_714_651_200  # 2024-05-02T12:00:00Z
_UNSAID = ("available", "markets", "published_at", "requires", "malformed")
"""Columns of a catalogue that says nothing in them."""


def _event(**changes: Any) -> dict[str, Any]:
    return {"user_id": "u", "item_id": "a", "timestamp": NOON, **changes}


def _reasons(spark: SparkSession, tmp_path: Path, rows: list[Any]) -> list[str | None]:
    write_events(tmp_path, "2024-05-02", rows)
    raw = read_raw(spark, [tmp_path / "ds=2024-05-02/events.jsonl"], schemas.EVENT_COLUMNS,
                   schemas.REQUIRED_EVENT_COLUMNS)  # fmt: skip
    items = spark.createDataFrame(
        [
            ("a", DAY),
            ("b", DAY - datetime.timedelta(days=9)),
            ("tomorrow", datetime.date(2024, 5, 3)),
        ],
        "item_id string, first_seen date",
    )
    events = check_events(raw, items, datetime.date(2024, 4, 1), CONFIG)
    by_row = {row["raw"]: row["reason"] for row in events.collect()}
    assert len(by_row) == len(rows)
    return [by_row[row if isinstance(row, str) else _as_spark(row)] for row in rows]


def _as_spark(row: dict[str, Any]) -> str:
    given = ((name, row.get(name)) for name in schemas.EVENT_COLUMNS)
    texts = {name: str(value) for name, value in given if value is not None}
    return json.dumps(texts, separators=(",", ":"), ensure_ascii=False)


def test_each_fault_has_its_reason(spark: SparkSession, tmp_path: Path) -> None:
    cases: list[tuple[Any, str | None]] = [
        (_event(), None),
        (_event(item_id=" b "), None),
        (_event(timestamp="2024-05-02 10:00:00"), None),
        (_event(timestamp="2024-05-02T10:00:00Z"), None),
        (_event(timestamp=NOON + 0.5), None),
        (_event(rating=3.5, event_type="rate"), None),
        ('{"user_id": "u", ', "malformed_record"),
        ("not json", "malformed_record"),
        (_event(user_id=None), "missing_user_id"),
        (_event(user_id="  "), "missing_user_id"),
        (_event(user_id="u" * 257), "bad_user_id"),
        (_event(user_id="u\t1"), "bad_user_id"),
        (_event(user_id='say "u"'), "bad_user_id"),
        (_event(user_id="[1]"), "bad_user_id"),
        (_event(user_id="caf\ufffd"), "bad_user_id"),
        (_event(user_id="\u00a0"), "missing_user_id"),
        (_event(item_id=None), "missing_item_id"),
        (_event(item_id="a\u0000"), "bad_item_id"),
        (_event(timestamp=None), "bad_timestamp"),
        (_event(timestamp="noon"), "bad_timestamp"),
        (_event(timestamp="12:00:00"), "bad_timestamp"),  # which Spark reads as today's
        (_event(timestamp="NaN"), "bad_timestamp"),
        (_event(timestamp=1e300), "bad_timestamp"),
        (_event(timestamp=NOON + 43_200), "timestamp_outside_calendar"),  # the next midnight
        (_event(timestamp=-1), "timestamp_outside_calendar"),
        (_event(timestamp=NOON * 1000), "timestamp_outside_calendar"),  # milliseconds
        (_event(timestamp=NOON - 3 * 86_400), None),
        (_event(timestamp=NOON - 4 * 86_400), "too_late"),
        (_event(event_type="fly"), "unknown_event_type"),
        (_event(rating="five"), "bad_rating"),
        (_event(rating="NaN"), "bad_rating"),
        (_event(rating="-Infinity"), "bad_rating"),
        (_event(item_id="z"), "unknown_item"),
        (_event(item_id="tomorrow"), "unknown_item"),
    ]
    found = _reasons(spark, tmp_path, [row for row, _ in cases])
    assert found == [reason for _, reason in cases]


def test_the_first_delivery_may_bring_events_of_any_age(spark: SparkSession) -> None:
    rows = [
        ("u", "a", "1580000000", "2024-05-01"), ("u", "a", "1500000000", "2024-05-01"),
        ("u", "a", "1580000000", "2024-05-02"),
    ]  # fmt: skip
    raw = spark.createDataFrame(
        [(*row, None, None, None) for row in rows],
        "user_id string, item_id string, timestamp string, ds string, rating string, "
        "event_type string, malformed string",
    )
    items = spark.createDataFrame([("a", DAY)], "item_id string, first_seen date")
    items = items.withColumn("first_seen", f.lit("2024-05-01").cast("date"))
    events = check_events(raw, items, datetime.date(2024, 5, 1), CONFIG)
    found = {(row["timestamp"], str(row["ds"])): row["reason"] for row in events.collect()}
    assert list(found.values()).count(None) == 1
    assert found[1_580_000_000, "2024-05-01"] is None
    assert found[1_500_000_000, "2024-05-01"] == "timestamp_outside_calendar"
    assert found[1_580_000_000, "2024-05-02"] == "too_late"


def test_a_robot_is_set_aside_for_the_day(spark: SparkSession) -> None:
    rows = [("bot", "a", str(NOON - n), "2024-05-02") for n in range(6)]
    rows += [("bot", "a", str(NOON - 86_400 - n), "2024-05-01") for n in range(5)]
    rows += [("bot", "a", "soon", "2024-05-02"), ("u", "a", str(NOON), "2024-05-02")]
    raw = spark.createDataFrame(
        [(*row, None, None, None) for row in rows],
        "user_id string, item_id string, timestamp string, ds string, rating string, "
        "event_type string, malformed string",
    )
    items = spark.createDataFrame(
        [("a", datetime.date(2024, 5, 1))], "item_id string, first_seen date"
    )
    events = check_events(
        raw, items, datetime.date(2024, 5, 1), replace(CONFIG, max_daily_events=5)
    )
    counts = events.groupBy("user_id", f.col("ds").cast("string"), "reason").count().collect()
    assert {tuple(row) for row in counts} == {
        ("bot", "2024-05-02", "robot", 6), ("bot", "2024-05-02", "bad_timestamp", 1),
        ("bot", "2024-05-01", None, 5), ("u", "2024-05-02", None, 1),
    }  # fmt: skip


def test_each_fault_of_the_catalogue_has_its_reason(spark: SparkSession) -> None:
    columns = ("item_id", "title", "available", "markets", "published_at", "requires", "malformed")
    rows: list[tuple[str | None, ...]] = [
        ("a", "Heat", None, None, None, None, None), ("a", "Alien", "false", None, None, None, None),
        (" ", "Nobody", None, "de, at,de", None, None, None), (*[None] * 6, "{"),
        ("b", "Ran", "perhaps", " ", None, None, None),
        ("c\n", "Ikiru", None, '["fr","de"]', None, None, None),
        ("d", "Dated", None, None, "2024-05-01T23:59:59Z", '["x y", "b,c", "", "b,c", 7]', None),
        ("e", "Old", None, None, "-1", "p; o p|q", None),
        ("f", "Odd", None, None, "May 1st", None, None),
        ("g", "Far", None, None, "1e15", None, None), ("h", "Blank", None, None, " ", " ", None),
    ]  # fmt: skip
    raw = spark.createDataFrame(rows, ", ".join(f"{name} string" for name in columns)).withColumns(
        {"ds": f.lit("2024-05-02"), **{
            name: f.lit(None).cast("string")
            for name in ("category", "description", *schemas.MEDIA_COLUMNS)
        }}
    )  # fmt: skip
    told = ("title", "reason", "available", "markets", "published_on", "requires")
    found = [tuple(row[name] for name in told) for row in check_items(raw, ["US"]).collect()]
    first, before = datetime.date(2024, 5, 1), datetime.date(1969, 12, 31)
    assert sorted(found, key=str) == sorted(
        [
            ("Alien", None, False, [], None, []), ("Heat", "duplicate_item", True, [], None, []),
            ("Nobody", "missing_item_id", True, ["at", "de"], None, []),
            ("", "malformed_record", True, [], None, []), ("Ran", "bad_available", None, [], None, []),
            ("Ikiru", "bad_item_id", True, ["de", "fr"], None, []),
            ("Dated", None, True, [], first, ["7", "b,c", "x y"]),
            ("Old", None, True, [], before, ["o", "p", "q"]),
            ("Odd", "bad_published_at", True, [], None, []),
            ("Far", "bad_published_at", True, [], None, []), ("Blank", None, True, [], None, []),
        ],
        key=str,
    )  # fmt: skip


def test_control_characters_leave_the_texts(spark: SparkSession) -> None:
    hostile = "\x1b[2J\x00Heat\u202e\r\n</script>\x9b'; --\t"
    raw = spark.createDataFrame(
        [("a", hostile, hostile, hostile)],
        "item_id string, title string, category string, description string",
    ).withColumns({"ds": f.lit("2024-05-02"), **{
        name: f.lit(None).cast("string") for name in (*_UNSAID, *schemas.MEDIA_COLUMNS)
    }})  # fmt: skip
    (row,) = check_items(raw, ["US"]).collect()
    for name in ("title", "category", "description"):
        assert row[name] == "[2J Heat   </script> '; --"
    assert row["reason"] is None


def test_bytes_that_are_no_text_stay_what_they_are(spark: SparkSession) -> None:
    odd = spark.createDataFrame([(b"caf\xe9 a@mail.org",), (None,)], "odd binary").select(
        f.col("odd").cast("string").alias("text")
    )
    rows = odd.select(screened(f.col("text"), []).cast("binary").alias("text")).collect()
    assert [row["text"] and bytes(row["text"]) for row in rows] == [b"caf\xe9 [e-mail]", None]


def test_item_texts_are_screened_and_counted(spark: SparkSession) -> None:
    raw = spark.createDataFrame(
        [("a", "Heat by a@mail.org", "call 650-253-0000", None), ("b", "Ran", None, None),
         (None, None, None, "{b@mail.org")],
        "item_id string, title string, description string, malformed string",
    ).withColumns({"ds": f.lit("2024-05-02"), **{
        name: f.lit(None).cast("string") for name in ("category", *_UNSAID[:-1], *schemas.MEDIA_COLUMNS)
    }})  # fmt: skip
    rows = {row["item_id"]: row.asDict() for row in check_items(raw, ["US"]).collect()}
    assert (rows["a"]["title"], rows["a"]["description"]) == ("Heat by [e-mail]", "call [phone]")
    assert "mail.org" not in rows["a"]["raw"]
    assert rows[None]["raw"] == "{[e-mail]"
    assert {item: row["is_screened"] for item, row in rows.items()} == {
        "a": True, "b": False, None: True
    }  # fmt: skip
