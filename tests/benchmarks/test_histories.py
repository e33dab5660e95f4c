"""The state's tables of users, as a service looks them up."""

from argparse import Namespace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from benchmarks.histories import ask, random_state
from spark_jobs.state import GROUP_BYTES, write_state


@pytest.mark.spark
def test_a_look_up_reads_little_and_finds_what_large_row_groups_hold(
    spark: SparkSession, tmp_path: Path
) -> None:
    state = random_state(spark, n_users=8_000, n_items=500, longest=60)
    folders = {"history": tmp_path / "ours", "spark_history": tmp_path / "spark"}
    write_state(state, folders["history"], 2)
    write_state(state, folders["spark_history"], 2, dict.fromkeys(GROUP_BYTES, 128 << 20))
    for table, limit in GROUP_BYTES.items():
        last = ""
        files = sorted((folders["history"] / table).glob("*.parquet"))
        assert len(files) == 2
        for path in files:
            footer = pq.ParquetFile(path).metadata
            assert footer.num_row_groups > 1
            for number in range(footer.num_row_groups):
                group = footer.row_group(number)
                assert group.total_byte_size < 1.5 * limit
                users = group.column(0).statistics
                assert last <= users.min
                last = users.max
    waits, mismatches = ask(folders, Namespace(users=8_000, questions=10, rounds=1))
    assert mismatches == 0
    assert {name: len(each) for name, each in waits.items()} == dict.fromkeys(waits, 10)
