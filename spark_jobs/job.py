"""What the three jobs share: flags, session, and one clear line for a known error."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.errors import PythonException
from pyspark.sql import Row, SparkSession
from pyspark.sql.types import StructType

from recbole_llm import errors
from recbole_llm.errors import RecboleLlmError
from recbole_llm.locks import one_job_on
from recbole_llm.warehouse import Warehouse, check_day
from spark_jobs.config import NightConfig, load_night_config

_log = logging.getLogger(__name__)
_KNOWN = re.compile(rf"^{re.escape(errors.__name__)}\.(\w+): (.*)$", re.MULTILINE)
"""An error of this package in what Spark tells of a worker's."""


@dataclass(frozen=True)
class Job:
    """One job's surroundings."""

    spark: SparkSession
    warehouse: Warehouse
    config: NightConfig
    day: str
    """The partition, ``YYYY-MM-DD``."""


def run_job(name: str, work: Callable[[Job], None], argv: list[str]) -> int:
    """Parse flags, wait for other jobs of the day, start Spark, do the work.

    Args:
        argv: ``--warehouse DIR --config FILE --day YYYY-MM-DD``.
    Returns:
        The exit code: 0, or ``exit_code`` of the known error, which is logged as one line. An
        unknown error is raised with its traceback (exit code 1: the scheduler may try again).
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--warehouse", required=True, help="root folder of the warehouse")
    parser.add_argument("--config", required=True, type=Path, help="configs/nightly.yaml")
    parser.add_argument("--day", required=True, help="the partition, YYYY-MM-DD")
    args = parser.parse_args(argv)
    try:
        day = check_day(args.day)
        config = load_night_config(args.config)
        warehouse = Warehouse(args.warehouse)
        with one_job_on(warehouse, day), start_spark(name, config) as spark:
            work(Job(spark, warehouse, config, day))
    except RecboleLlmError as error:
        _log.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    return 0


def run_each(
    spark: SparkSession,
    rows: list[tuple[Any, ...]],
    columns: str,
    work: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: StructType,
) -> list[Row]:
    """Give each row to a task of its own; the rows that the tasks come to.

    Args:
        rows: of few and short values, such as paths.
        columns: their names and types, as ``path string``.
        work: for ``mapInArrow``.
        schema: of what it yields.
    Raises:
        RecboleLlmError: of a task.
    """
    numbered = [(number, *row) for number, row in enumerate(rows)]
    frame = spark.createDataFrame(numbered, f"number int, {columns}")
    each = frame.repartitionById(max(len(rows), 1), "number").drop("number")
    try:
        return each.mapInArrow(work, schema).collect()
    except PythonException as error:
        found = _KNOWN.search(str(error))
        if found is None:
            raise
        kind: type[RecboleLlmError] = getattr(errors, found[1])
        raise kind(found[2]) from error


def start_spark(name: str, config: NightConfig) -> SparkSession:
    """A session with the settings that results depend on; where it runs is the submitter's choice.

    Without spark-submit it runs on this machine's cores.
    """
    builder = SparkSession.builder.appName(name)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not started by spark-submit
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = (
            builder.master("local[2]")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.ui.enabled", "false")
        )
    spark = (
        builder.config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", str(config.partitions))
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(config.users_per_batch))
        .config("spark.speculation", "false")
        # pandas writes times in nanoseconds, which Spark refuses otherwise; see raw_events.py.
        .config("spark.sql.legacy.parquet.nanosAsLong", "true")
        # List the raw files of many days on the driver instead of starting a task for each.
        .config("spark.sql.sources.parallelPartitionDiscovery.threshold", "10000")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark
