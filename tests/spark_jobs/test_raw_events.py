"""Raw files of every format, whole and broken, and which of them a night reads."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.testing import assertDataFrameEqual

from recbole_llm.errors import DataError
from spark_jobs import schemas
from spark_jobs.raw_events import catalogue_files, event_files, read_raw
from tests.data import write_events

pytestmark = pytest.mark.spark
NOON = 1_714_651_200  # 2024-05-02T12:00:00Z


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
        [(*row, None, None, None, None) for row in rows],
        "user_id string, item_id string, timestamp string, rating string, event_type string, "
        "market string, malformed string, ds string",
    )
    assertDataFrameEqual(raw, expected)


CATALOGUE = [
    {
        "id": "1",
        "artist": "A, B",
        "tags": ["slow jazz", "b[o]p", None],
        "year": 1959,
        "needs": ["x y"],
    },
    {"id": "2", "artist": " ", "tags": [], "year": None, "needs": None},
    {"id": "3", "artist": "[C]", "tags": None, "year": 7, "needs": ["a", "b"]},
]
FIELDS = {"item_id": "id", "title": "artist", "description": ["artist", "tags", "year"],
          "category": ["tags"], "requires": "needs"}  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "csv"])
def test_a_catalogue_in_its_own_names(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"tracks.{kind}"
    compact = (",", ":")
    lines = "".join(f"{json.dumps(row, separators=compact)}\n" for row in CATALOGUE)
    if kind == "jsonl":
        file.write_text(lines)
    elif kind == "jsonl.gz":
        with gzip.open(file, "wt") as packed:
            packed.write(lines)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(CATALOGUE), file)
    else:
        with file.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, CATALOGUE[0])
            writer.writeheader()
            for row in CATALOGUE:
                lists = {name: row[name] for name in ("tags", "needs") if row[name] is not None}
                packed_lists = {
                    name: json.dumps(x, separators=compact) for name, x in lists.items()
                }
                writer.writerow({**row, **packed_lists})
    raw = read_raw(spark, [file], schemas.RAW_ITEM_COLUMNS, ("item_id",), FIELDS)
    assert raw.columns == [*schemas.RAW_ITEM_COLUMNS, "malformed", "ds"]
    told = ("item_id", "title", "category", "description", "requires", "malformed")
    rows = {row["item_id"]: tuple(row[name] for name in told) for row in raw.collect()}
    assert rows == {
        "1": ("1", "A, B", "slow jazz, b[o]p", "A, B, slow jazz, b[o]p, 1959", '["x y"]', None),
        "2": ("2", " ", "", "", None, None),
        "3": ("3", "[C]", "", "[C], 7", '["a","b"]', None),
    }


def test_a_file_without_a_column_that_it_should_call_otherwise(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "e.csv").write_text("user_id,item_id,at.utc\nu,a,1\n")
    fields: dict[str, str | list[str]] = {"timestamp": "at.utc"}
    columns = schemas.EVENT_COLUMNS, schemas.REQUIRED_EVENT_COLUMNS
    (row,) = read_raw(spark, [tmp_path / "e.csv"], *columns, fields).collect()
    assert (row["user_id"], row["timestamp"]) == ("u", "1")
    fields = {**fields, "user_id": "reader"}
    with pytest.raises(
        DataError, match=r"lacks the columns \['reader'\]; .*event_fields and item_"
    ):
        read_raw(spark, [tmp_path / "e.csv"], *columns, fields)


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
    with pytest.raises(DataError, match=r"e.xls is none of .jsonl, .json, .csv, .jsonl.gz"):
        read_raw(spark, [tmp_path / "e.xls"], schemas.EVENT_COLUMNS, ())


def test_csv_files_may_order_their_columns_differently(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (tmp_path / "b.csv").write_text("item_id,device,user_id,timestamp\nb,tv,v,2\n")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    raw = read_raw(spark, files, schemas.EVENT_COLUMNS, schemas.REQUIRED_EVENT_COLUMNS)
    rows = {(row["user_id"], row["item_id"], row["timestamp"]) for row in raw.collect()}
    assert rows == {("u", "a", "1"), ("v", "b", "2")}


def test_a_truncated_parquet_file_is_named(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="e.parquet is no whole Parquet file: .*deliver it again"):
        read_raw(spark, [tmp_path / "e.parquet"], schemas.EVENT_COLUMNS, ())


def test_the_day_of_delivery_is_the_folders(spark: SparkSession, tmp_path: Path) -> None:
    for day in ("2024-05-01", "2024-05-02", "2024-05-03"):
        write_events(
            tmp_path / "raw events", day, [{"user_id": "u", "item_id": day, "timestamp": 1}]
        )
    (tmp_path / "raw events" / "ds=2024-05-02" / "_SUCCESS").touch()
    files = event_files(tmp_path / "raw events", "2024-05-01", "2024-05-03")
    assert list(files) == ["2024-05-02", "2024-05-03"]
    assert [len(each) for each in files.values()] == [1, 1]
    assert len(event_files(tmp_path / "raw events", None, "2024-05-02")) == 2
    raw = read_raw(spark, [*files["2024-05-02"], *files["2024-05-03"]], schemas.EVENT_COLUMNS, ())
    assert {(row["item_id"], row["ds"]) for row in raw.collect()} == {
        ("2024-05-02", "2024-05-02"), ("2024-05-03", "2024-05-03")
    }  # fmt: skip


def test_catalogues_of_days_or_one_for_always(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no item catalogue for 2024-05-02: .*found none"):
        catalogue_files(tmp_path, None, "2024-05-02")
    for day in ("2024-05-02", "2024-05-05"):
        (tmp_path / f"ds={day}").mkdir()
        (tmp_path / f"ds={day}" / "items.jsonl").touch()
    with pytest.raises(DataError, match="no item catalogue for 2024-05-01: .*'2024-05-02'"):
        catalogue_files(tmp_path, None, "2024-05-01")
    assert list(catalogue_files(tmp_path, None, "2024-05-05")) == ["2024-05-02", "2024-05-05"]
    assert list(catalogue_files(tmp_path, "2024-05-02", "2024-05-04")) == []
    (tmp_path / "items.jsonl").touch()
    with pytest.raises(DataError, match=r"holds files \(items.jsonl\) beside the partitions"):
        catalogue_files(tmp_path, None, "2024-05-02")


def test_whole_numbers_beside_a_null_are_the_same_users(
    spark: SparkSession, tmp_path: Path
) -> None:
    """pandas makes floats of them."""
    users = {"a": [10_000_000, 7], "b": [10_000_000.0, None], "c": [0.5, float("nan")]}
    for name, values in users.items():
        table = pa.table({"user_id": values, "item_id": ["i"] * 2, "timestamp": [NOON] * 2})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    raw = read_raw(
        spark, sorted(tmp_path.glob("*.parquet")), schemas.EVENT_COLUMNS,
        schemas.REQUIRED_EVENT_COLUMNS,
    )  # fmt: skip
    found = [row["user_id"] for row in raw.select("user_id").collect()]
    assert sorted(found, key=str) == ["0.5", "10000000", "10000000", "7", "NaN", None]
