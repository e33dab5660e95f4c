"""The job that makes a day's features: counts that add up, days that build on one another."""

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from recbole_llm.errors import DataError, UnavailableError
from recbole_llm.warehouse import Warehouse
from spark_jobs import prepare_features
from spark_jobs.config import load_night_config
from spark_jobs.job import Job
from spark_jobs.prepare_features import prepare
from spark_jobs.state import find_arrivals
from tests.data import write_events

pytestmark = pytest.mark.spark
NOON = 1_714_651_200  # 2024-05-02T12:00:00Z


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
        "raw_rows": 47, "accepted_rows": 42, "late_rows": 1, "quarantined_rows": 4,
        "duplicate_rows": 1, "n_users": 12, "n_items": 20, "n_available_items": 20,
    }  # fmt: skip
    assert manifest["reasons"] == {"events.malformed_record": 3, "events.unknown_item": 1}
    quarantine = spark.read.parquet(str(small_warehouse / manifest["path"] / "quarantine"))
    assert quarantine.where(f.col("raw") == "{").count() == 2


def test_a_repeated_day_gives_the_same_rows_and_only_replaces_itself(
    spark: SparkSession, prepared_warehouse: Path, small_night_config: Path
) -> None:
    warehouse = Warehouse(prepared_warehouse)
    before = {day: warehouse.features_manifest(day) for day in ("2024-05-01", "2024-05-02")}
    for _ in range(2):
        prepare(_job(spark, prepared_warehouse, small_night_config, "2024-05-02"))
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


def test_old_states_go_and_their_quarantine_stays(
    spark: SparkSession, prepared_warehouse: Path, small_night_config: Path
) -> None:
    text = small_night_config.read_text().replace("keep_days: 35 ", "keep_days: 1 ")
    small_night_config.write_text(text)
    warehouse = Warehouse(prepared_warehouse)
    prepare(_job(spark, prepared_warehouse, small_night_config, "2024-05-03"))
    tables = {
        day: {path.name for path in (warehouse.root / manifest["path"]).iterdir()}
        for day, manifest in warehouse.features_manifests().items()
    }
    assert tables["2024-05-01"] == {"quarantine"}
    assert tables["2024-05-02"] == {"sequences", "items", "opinions", "recent", "quarantine"}


def test_an_item_leaves_the_catalogue_and_comes_back(
    spark: SparkSession, prepared_warehouse: Path, small_night_config: Path
) -> None:
    warehouse = Warehouse(prepared_warehouse)
    lines = (warehouse.raw_items / "items.jsonl").read_text().splitlines()
    for day, kept in (("2024-05-02", lines[1:]), ("2024-05-03", lines)):
        (warehouse.raw_items / "items.jsonl").write_text("\n".join(kept))
        prepare(_job(spark, prepared_warehouse, small_night_config, day))
    available = {
        day: (manifest["n_items"], manifest["n_available_items"])
        for day, manifest in warehouse.features_manifests().items()
    }
    assert list(available.values()) == [(20, 20), (20, 19), (20, 20)]


@pytest.mark.parametrize("days", [["2024-05-02", "2024-05-03"], ["2024-05-03"]])
def test_a_new_item_of_a_gap_is_known_in_it(
    spark: SparkSession, small_warehouse: Path, small_night_config: Path, days: list[str]
) -> None:
    warehouse = Warehouse(small_warehouse)
    prepare(_job(spark, small_warehouse, small_night_config, "2024-05-01"))
    with (warehouse.raw_items / "items.jsonl").open("a") as file:
        file.write('{"item_id": "new"}\n')
    event = {"user_id": "fan", "item_id": "new", "timestamp": NOON}
    write_events(warehouse.raw_events, "2024-05-02", [event])
    for day in days:
        prepare(_job(spark, small_warehouse, small_night_config, day))
    path = small_warehouse / warehouse.features_manifest("2024-05-03")["path"]
    sequences = spark.read.parquet(str(path / "sequences"))
    assert sequences.where("user_id = 'fan'").first()["item_ids"] == ["new"]


def test_raw_files_that_change_under_the_job_are_an_accident(
    spark: SparkSession, small_warehouse: Path, small_night_config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    warehouse = Warehouse(small_warehouse)
    (path,) = (warehouse.raw_events / "ds=2024-05-01").iterdir()

    def find_later(*args: Any) -> Any:
        path.write_text(path.read_text() + "{\n")
        return find_arrivals(*args)

    monkeypatch.setattr(prepare_features, "find_arrivals", find_later)
    with pytest.raises(UnavailableError, match="raw files up to 2024-05-01 changed while") as error:
        prepare(_job(spark, small_warehouse, small_night_config, "2024-05-01"))
    assert error.value.exit_code == 1  # the scheduler tries again
