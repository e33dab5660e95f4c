import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f
from pyspark.testing import assertDataFrameEqual

from recbole_llm.errors import DataError
from recbole_llm.warehouse import Warehouse
from spark_jobs import schemas
from spark_jobs.config import load_night_config
from spark_jobs.job import Job
from spark_jobs.prepare_features import build_sequences, check_events, check_items, prepare
from spark_jobs.raw_events import read_raw
from tests.data import write_events

pytestmark = pytest.mark.spark
DAY = datetime.date(2024, 5, 2)
NOON = 1_714_651_200  # 2024-05-02T12:00:00Z


def _event(**changes: Any) -> dict[str, Any]:
    return {"user_id": "u", "item_id": "a", "timestamp": NOON, **changes}


def _reasons(spark: SparkSession, tmp_path: Path, rows: list[Any]) -> list[str | None]:
    write_events(tmp_path, "2024-05-02", rows)
    raw = read_raw(spark, [tmp_path / "ds=2024-05-02/events.jsonl"], schemas.EVENT_COLUMNS,
                   schemas.REQUIRED_EVENT_COLUMNS)  # fmt: skip
    items = spark.createDataFrame([("a",), ("b",)], "item_id string")
    events = check_events(raw, items, DAY, datetime.date(2020, 1, 1), ["view", "rate"])
    by_row = {row["raw"]: row["reason"] for row in events.collect()}
    assert len(by_row) == len(rows)
    return [by_row[row if isinstance(row, str) else _as_spark(row)] for row in rows]


def _as_spark(row: dict[str, Any]) -> str:
    given = ((name, row.get(name)) for name in schemas.EVENT_COLUMNS)
    texts = {name: str(value) for name, value in given if value is not None}
    return json.dumps(texts, separators=(",", ":"))


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
        (_event(item_id=None), "missing_item_id"),
        (_event(timestamp=None), "bad_timestamp"),
        (_event(timestamp="noon"), "bad_timestamp"),
        (_event(timestamp="NaN"), "bad_timestamp"),
        (_event(timestamp=1e300), "bad_timestamp"),
        (_event(timestamp=NOON + 43_200), "timestamp_outside_calendar"),  # the next midnight
        (_event(timestamp=-1), "timestamp_outside_calendar"),
        (_event(timestamp=NOON * 1000), "timestamp_outside_calendar"),  # milliseconds
        (_event(event_type="fly"), "unknown_event_type"),
        (_event(rating="five"), "bad_rating"),
        (_event(rating="NaN"), "bad_rating"),
        (_event(item_id="z"), "unknown_item"),
    ]
    found = _reasons(spark, tmp_path, [row for row, _ in cases])
    assert found == [reason for _, reason in cases]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_formats_read_alike(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    rows = [("u", "a", str(NOON), None), ("v", None, "x", "3")]
    frame = spark.createDataFrame(
        rows, "user_id string, item_id string, timestamp string, rating string"
    )
    frame.coalesce(1).write.option("header", True).format(kind).save(str(tmp_path / "out"))
    file = next(path for path in (tmp_path / "out").glob(f"*.{kind}"))
    raw = read_raw(spark, [file], schemas.EVENT_COLUMNS, schemas.REQUIRED_EVENT_COLUMNS)
    expected = spark.createDataFrame(
        [(*row, None, None) for row in rows],
        "user_id string, item_id string, timestamp string, rating string, event_type string, "
        "malformed string",
    )
    assertDataFrameEqual(raw, expected)


def test_an_empty_csv_is_a_day_without_events(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert read_raw(spark, files, schemas.EVENT_COLUMNS, ("user_id",)).count() == 1


def test_a_csv_row_of_another_width_is_malformed(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("item_id,timestamp,user_id\na,1,u\na,1,u,more\n")
    raw = read_raw(spark, [tmp_path / "e.csv"], schemas.EVENT_COLUMNS, ("user_id",))
    rows = [(row["user_id"], row["malformed"]) for row in raw.collect()]
    assert rows == [("u", None), ("u", "a,1,u,more")]


def test_a_file_without_a_required_column(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("user,item_id,timestamp\nu,a,1\n")
    with pytest.raises(DataError, match=r"lacks the columns \['user_id'\]; it has \['user', "):
        read_raw(spark, [tmp_path / "e.csv"], schemas.EVENT_COLUMNS, schemas.REQUIRED_EVENT_COLUMNS)
    (tmp_path / "e.xls").write_text("")
    with pytest.raises(DataError, match=r"e.xls is none of .jsonl, .json, .csv, .parquet"):
        read_raw(spark, [tmp_path / "e.xls"], schemas.EVENT_COLUMNS, ())


def test_sequences_by_hand(spark: SparkSession) -> None:
    events = spark.createDataFrame(
        [
            ("u", "b", 7, None), ("u", "a", 7, None), ("u", "c", 3, None), ("u", "d", 9, None),
            ("u", "d", 9, None), ("u", "d", 9, None),  # two duplicates
            ("u", "a", 8, None),  # met again: not a duplicate
            ("u", "z", 8, "unknown_item"), ("w", "z", 8, "unknown_item"), ("x", "a", 8, "bad_rating"),
        ],
        "user_id string, item_id string, timestamp bigint, reason string",
    )  # fmt: skip
    sequences = build_sequences(events, max_history=4)
    expected = spark.createDataFrame(
        [("u", ["a", "b", "a", "d"], [7, 7, 8, 9], 5, 2), ("w", [], [], 0, 0)], schemas.SEQUENCES
    )
    assertDataFrameEqual(sequences, expected)


def test_of_catalogue_rows_with_one_id_one_stays(spark: SparkSession) -> None:
    raw = spark.createDataFrame(
        [("a", "Heat", None, None, None), ("a", "Alien", None, None, None),
         (" ", "Nobody", None, None, None), (None, None, None, None, "{")],
        "item_id string, title string, category string, description string, malformed string",
    )  # fmt: skip
    rows = {(row["title"], row["reason"]) for row in check_items(raw).collect()}
    assert rows == {
        ("Alien", None), ("Heat", "duplicate_item"), ("Nobody", "missing_item_id"),
        ("", "malformed_record"),
    }  # fmt: skip


def _job(spark: SparkSession, root: Path, config: Path, day: str) -> Job:
    return Job(spark, Warehouse(root), load_night_config(config), day)


def test_rows_in_are_rows_out(
    spark: SparkSession, small_warehouse: Path, small_night_config: Path
) -> None:
    good = (
        next((small_warehouse / "raw/events/ds=2024-05-02").iterdir()).read_text().splitlines()[0]
    )
    late = {"user_id": "late", "item_id": "i3", "timestamp": NOON - 86_400}
    write_events(small_warehouse / "raw/events", "2024-05-02", [good, good, late, "{", "{"])
    prepare(_job(spark, small_warehouse, small_night_config, "2024-05-02"))
    manifest = Warehouse(small_warehouse).features_manifest("2024-05-02")
    counts = {key: manifest[key] for key in manifest if key.endswith("_rows") or key[:2] == "n_"}
    assert counts == {
        "raw_rows": 47, "accepted_rows": 42, "quarantined_rows": 4, "duplicate_rows": 1,
        "n_users": 12, "n_items": 20,
    }  # fmt: skip
    assert manifest["reasons"] == {"events.malformed_record": 3, "events.unknown_item": 1}
    quarantine = spark.read.parquet(str(small_warehouse / manifest["path"] / "quarantine"))
    assert quarantine.where(f.col("raw") == "{").count() == 2


def test_a_repeated_day_gives_the_same_rows_and_only_replaces_itself(
    spark: SparkSession, small_warehouse: Path, small_night_config: Path
) -> None:
    warehouse = Warehouse(small_warehouse)
    for day in ("2024-05-01", "2024-05-02"):
        prepare(_job(spark, small_warehouse, small_night_config, day))
    before = {day: warehouse.features_manifest(day) for day in ("2024-05-01", "2024-05-02")}
    for _ in range(2):
        prepare(_job(spark, small_warehouse, small_night_config, "2024-05-02"))
    after = warehouse.features_manifest("2024-05-02")
    assert warehouse.features_manifest("2024-05-01") == before["2024-05-01"]
    assert after["attempt"] != before["2024-05-02"]["attempt"]
    assert after["fingerprint"] == before["2024-05-02"]["fingerprint"]
    assert after["fingerprint"] != before["2024-05-01"]["fingerprint"]
    attempts = [path for path in warehouse.features("2024-05-02").iterdir() if path.is_dir()]
    assert len(attempts) == 2  # the new one, and the one a reader may still hold


def test_a_day_that_was_not_delivered(
    spark: SparkSession, small_warehouse: Path, small_night_config: Path
) -> None:
    with pytest.raises(DataError, match="no raw events for 2024-06-09: .*found 3 days, 2024-05-01"):
        prepare(_job(spark, small_warehouse, small_night_config, "2024-06-09"))


def test_nothing_usable(spark: SparkSession, tmp_path: Path, small_night_config: Path) -> None:
    warehouse = Warehouse(tmp_path / "w")
    write_events(warehouse.raw_events, "2024-05-02", ["{", "{"])
    with pytest.raises(DataError, match="no item catalogue"):
        prepare(_job(spark, warehouse.root, small_night_config, "2024-05-02"))
    warehouse.raw_items.mkdir(parents=True)
    (warehouse.raw_items / "items.jsonl").write_text('{"item_id": "a"}\n')
    with pytest.raises(DataError, match="no usable event up to 2024-05-02: 2 of 2 rows"):
        prepare(_job(spark, warehouse.root, small_night_config, "2024-05-02"))
    assert not (warehouse.features("2024-05-02") / "manifest.json").exists()
