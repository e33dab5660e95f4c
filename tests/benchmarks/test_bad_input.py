"""Every kind of bad input, once: each row with its reason, each broken file by its name."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from benchmarks.bad_input.kinds import DAY, ROW_KINDS, file_kinds
from benchmarks.bad_input.world import (
    Expected,
    day_folder,
    find_differences,
    make_world,
    write_files,
    write_rows,
)
from recbole_llm.errors import DataError
from spark_jobs.config import load_night_config
from spark_jobs.job import Job
from spark_jobs.prepare_features import prepare

pytestmark = pytest.mark.spark
BROKEN = {name: kind for name, kind in file_kinds().items() if kind.fault}


def test_every_row_is_accounted_for(spark: SparkSession, tmp_path: Path) -> None:
    world, expected = make_world(tmp_path), Expected()
    write_rows(world, 20, 3, expected)
    write_files(world, {n: kind for n, kind in file_kinds().items() if not kind.fault}, expected)
    config = load_night_config(world.config)
    prepare(Job(spark, world.warehouse, config, DAY))
    assert find_differences(world, expected) == {}
    assert len(ROW_KINDS) + len(file_kinds()) > 50


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_file_is_named_and_nothing_else_changes(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    world, kind = make_world(tmp_path), BROKEN[name]
    write_files(world, {}, Expected())
    broken = day_folder(world) / kind.name
    broken.write_bytes(kind.content)
    job = Job(spark, world.warehouse, load_night_config(world.config), DAY)
    with pytest.raises(DataError) as error:
        prepare(job)
    assert str(error.value).startswith(str(broken))
    assert str(kind.fault) in str(error.value)
    assert not (world.warehouse.features(DAY) / "manifest.json").exists()


def test_a_folder_in_a_day_is_no_file(spark: SparkSession, tmp_path: Path) -> None:
    world = make_world(tmp_path)
    (day_folder(world) / "hour=00").mkdir()
    job = Job(spark, world.warehouse, load_night_config(world.config), DAY)
    with pytest.raises(DataError, match="hour=00 is a folder, which nobody would read; put its"):
        prepare(job)
