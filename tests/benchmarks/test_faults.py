"""A night's jobs killed behind what they change on disk; ``benchmarks.faults`` does it by the dozen."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession

from benchmarks.faults.kills import STEPS, Killer, compare, describe, run_nights
from benchmarks.faults.reader import reading
from benchmarks.faults.tables import find_fault, find_leftovers, read_table
from benchmarks.faults.world import make_world
from recbole_llm.warehouse import Warehouse
from spark_jobs.config import load_night_config
from spark_jobs.job import Job


@pytest.mark.spark
@pytest.mark.slow
def test_killed_jobs_show_nothing_and_come_to_the_same(spark: SparkSession, tmp_path: Path) -> None:
    truth = make_world(tmp_path / "truth", 2)
    first, second = truth.days
    run_nights(truth, [first], spark)
    shutil.copytree(truth.warehouse.root, tmp_path / "killed")  # times too, which digests hold
    world = replace(truth, warehouse=Warehouse(tmp_path / "killed"))
    run_nights(truth, [second], spark)
    expected = describe(truth)
    killer = Killer(world, expected["digests"], tmp_path, seed=0)
    config = load_night_config(world.config)
    with reading(world.warehouse, expected["digests"]) as seen:
        for job, mark, victim in (
            ("prepare_features", "sequences", "driver"),
            ("score_users", "file done", "all"),
            ("publish", "pointer", "jvm"),
        ):
            assert killer.kill_once(job, second, mark=mark, victim=victim)
            STEPS[job](Job(spark, world.warehouse, config, second))
    assert [kill["exit_code"] != 0 for kill in killer.kills] == [True] * 3
    assert (killer.faults, seen["faults"]) == ([], [])
    assert seen["reads"] > 10
    assert compare(expected, describe(world)) == []
    assert find_leftovers(world.warehouse, killer.was_named) == []


def test_a_reader_tells_a_table_that_is_not_whole(tmp_path: Path) -> None:
    rows = "SELECT 'u' || (i // 2) AS user_id, (i % 2 + 1)::smallint AS rank, '{run}' AS run_id, "
    rows += "date '2024-05-01' AS ds, 'i' AS item_id, 1::float AS score, '' AS reason, "
    rows += "'' AS model_version, now() AS generated_at, NULL AS why FROM range({n}) t(i)"
    run = {"k": 2, "n_rows": 8, "run_id": "a", "ds": "2024-05-01"}
    with duckdb.connect() as database:

        def read(query: str) -> dict[str, Any]:
            database.execute(f"COPY ({query}) TO '{tmp_path}/0.parquet'")
            return read_table(database, tmp_path)

        whole = read(rows.format(run="a", n=8))
        assert find_fault(run, whole, {"a": whole["digest"]}) is None
        for query, fault in (
            (rows.format(run="a", n=6), "6 rows of 3 users, 8 promised"),
            (rows.format(run="b", n=8), r"runs ['b'] of days ['2024-05-01']"),
            (rows.format(run="a", n=8).replace("+ 1", "+ 2"), "ranks 2 to 3"),
            (rows.format(run="a", n=8).replace("'i' AS", "'j' AS"), "other rows than"),
        ):
            assert fault in str(find_fault(run, read(query), {"a": whole["digest"]}))
