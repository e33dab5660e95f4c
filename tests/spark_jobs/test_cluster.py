"""The jobs where executors are processes of their own: the rows are those of one machine's cores."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pyspark
import pytest
from pyspark.sql import SparkSession

from benchmarks.faults.processes import job_environment
from recbole_llm.warehouse import Warehouse
from tests.conftest import HOME, night_runner

DAY = "2024-05-01"


def _rows(warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    features = warehouse.features_manifest(DAY)["path"]
    paths = [warehouse.published_run(DAY)["path"]]
    paths += [
        f"{features}/{name}" for name in ("sequences", "items", "opinions", "recent", "quarantine")
    ]
    with duckdb.connect() as database:
        return {
            str(Path(path).name): database.execute(
                f"SELECT * FROM '{warehouse.root}/{path}/*.parquet' ORDER BY ALL"
            ).fetchall()
            for path in paths
        }


@pytest.mark.spark
@pytest.mark.slow
def test_two_executors_give_what_two_cores_give(
    spark: SparkSession, small_warehouse: Path, small_night_config: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_warehouse, tmp_path / "cluster")
    here = night_runner(spark, small_warehouse, small_night_config)(DAY)
    command = [
        f"{pyspark.__path__[0]}/bin/spark-submit", "--master", "local-cluster[2,1,1024]",
        "--conf", "spark.ui.enabled=false",
        str(HOME / "tests" / "spark_jobs" / "cluster_night.py"),
        "--warehouse", str(tmp_path / "cluster"), "--config", str(small_night_config),
        "--day", DAY,
    ]  # fmt: skip
    done = subprocess.run(
        command, env=job_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "spark" / "work").glob("app-*/*"))) == 2
    there = Warehouse(tmp_path / "cluster")
    assert there.published_run(DAY)["run_id"] == here.published_run(DAY)["run_id"]
    expected, found = (_rows(warehouse) for warehouse in (here, there))
    assert list(found.values()) == list(expected.values())
    assert [name for name, rows in expected.items() if not rows] == ["opinions"]  # none were said
