"""Read what other systems deliver, as text: nothing is cast, nothing is lost.

A file is JSON lines (.jsonl, .json), CSV with a head (.csv) or Parquet (.parquet). A record that
cannot be read at all comes back with its text in ``malformed`` and nulls elsewhere.
"""

from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql import types as t

from recbole_llm.errors import DataError

MALFORMED = "malformed"
_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def event_files(folder: Path, day: str) -> list[Path]:
    """Files of all partitions ``ds=YYYY-MM-DD`` up to a day, oldest first.

    Raises:
        DataError: that day has no partition, or there is none at all; the message tells which are.
    """
    days = sorted(path.name.removeprefix("ds=") for path in folder.glob("ds=*") if path.is_dir())
    if day not in days:
        found = f"found {len(days)} days, {days[0]} to {days[-1]}" if days else "found none"
        raise DataError(
            f"no raw events for {day}: expected the folder {folder}/ds={day}, {found}. Deliver the "
            "day (an empty file if nothing happened) or choose another"
        )
    return [
        file
        for each in days
        if each <= day
        for file in sorted((folder / f"ds={each}").iterdir())
        if _is_data(file)
    ]


def catalogue_files(folder: Path) -> list[Path]:
    """Files of the item catalogue.

    Raises:
        DataError: there is none.
    """
    files = [file for file in sorted(folder.glob("*")) if _is_data(file)]
    if not files:
        raise DataError(f"no item catalogue: expected .jsonl, .csv or .parquet files in {folder}")
    return files


def _is_data(file: Path) -> bool:
    return not file.name.startswith(("_", "."))


def read_raw(
    spark: SparkSession, files: list[Path], columns: tuple[str, ...], required: tuple[str, ...]
) -> DataFrame:
    """Read files of any of the three formats.

    Args:
        columns: columns to take; those a file lacks are null.
        required: columns each file with a head must have.
    Returns:
        One row a record: ``columns`` and ``malformed``, all strings.
    Raises:
        DataError: a file of another format, or one without a required column.
    """
    by_format: dict[str, list[str]] = {}
    for file in files:
        if file.suffix not in _FORMATS:
            raise DataError(f"{file} is none of {', '.join(_FORMATS)}; convert it or take it away")
        by_format.setdefault(_FORMATS[file.suffix], []).append(str(file))
    parts = []
    for kind, paths in by_format.items():
        if kind == "json":
            schema = _strings([*columns, MALFORMED])
            frame = (
                spark.read.schema(schema).option("columnNameOfCorruptRecord", MALFORMED).json(paths)
            )
        elif kind == "csv":
            # A day without events may be an empty file, which has no head.
            with_head = next((path for path in paths if Path(path).stat().st_size), paths[0])
            head = spark.read.option("header", True).csv(with_head).columns
            reader = spark.read.schema(_strings([*head, MALFORMED])).option("header", True)
            reader = reader.option("enforceSchema", False)
            frame = reader.option("columnNameOfCorruptRecord", MALFORMED).csv(paths)
        else:
            frame = spark.read.parquet(*paths).withColumn(MALFORMED, f.lit(None).cast("string"))
        missing = [name for name in required if name not in frame.columns]
        if missing:
            raise DataError(
                f"{paths[0]} lacks the columns {missing}; it has {frame.columns}, and "
                f"{list(required)} are required"
            )
        present = [
            f.col(name).cast("string").alias(name)
            if name in frame.columns
            else f.lit(None).cast("string").alias(name)
            for name in [*columns, MALFORMED]
        ]
        parts.append(frame.select(present))
    result = parts[0]
    for part in parts[1:]:
        result = result.unionByName(part)
    return result


def _strings(names: list[str]) -> t.StructType:
    return t.StructType([t.StructField(name, t.StringType()) for name in names])
