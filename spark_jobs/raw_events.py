"""Read what other systems deliver, as text: nothing is cast, nothing is lost.

A file is JSON lines (.jsonl, .json), CSV with a head (.csv) or Parquet (.parquet). A record that
cannot be read at all comes back with its text in ``malformed`` and nulls elsewhere.
"""

from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql import types as t

from recbole_llm.errors import DataError

MALFORMED = "malformed"
_DS = r"/ds=(\d{4}-\d{2}-\d{2})/[^/]*$"
_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def event_files(folder: Path, after: str | None, day: str) -> dict[str, list[Path]]:
    """Files of the partitions ``ds=YYYY-MM-DD`` after one day up to another, oldest first.

    Args:
        folder: where the partitions lie.
        after: the first day to leave out; None takes all from the beginning.
        day: the last day to take.
    Raises:
        DataError: the last day has no partition; the message tells which days have.
    """
    days = delivered_days(folder)
    if day not in days:
        found = f"found {len(days)} days, {days[0]} to {days[-1]}" if days else "found none"
        raise DataError(
            f"no raw events for {day}: expected the folder {folder}/ds={day}, {found}. Deliver the "
            "day (an empty file if nothing happened) or choose another"
        )
    return {each: data_files(folder / f"ds={each}") for each in days if (after or "") < each <= day}


def catalogue_files(folder: Path, after: str | None, day: str) -> dict[str, list[Path]]:
    """Files of the item catalogues that hold after one day up to another, by their days.

    A catalogue lies in ``ds=YYYY-MM-DD`` and holds until the next one; or it lies in the folder
    itself and holds always, so that it is every day's.

    Args:
        folder: where they lie.
        after: the first day to leave out; None takes all from the beginning.
        day: the last day to take, and the day of a catalogue without one.
    Raises:
        DataError: there is none, or some lie in partitions and some do not.
    """
    undated, days = data_files(folder), delivered_days(folder)
    if undated and days:
        raise DataError(
            f"{folder} holds files ({undated[0].name}) beside the partitions {days[0]} to "
            f"{days[-1]}; a catalogue is either one for always or one a day"
        )
    if undated:
        return {day: undated}
    if not days or days[0] > day:
        raise DataError(
            f"no item catalogue for {day}: expected .jsonl, .csv or .parquet files in {folder}, or "
            f"in {folder}/ds=YYYY-MM-DD up to that day; found {days or 'none'}"
        )
    return {each: data_files(folder / f"ds={each}") for each in days if (after or "") < each <= day}


def delivered_days(folder: Path) -> list[str]:
    """Days with a partition, oldest first."""
    return sorted(path.name.removeprefix("ds=") for path in folder.glob("ds=*") if path.is_dir())


def data_files(folder: Path) -> list[Path]:
    """Files of a folder, without hidden ones and markers such as ``_SUCCESS``."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and _is_data(path))


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
        One row a record: ``columns``, ``malformed``, and ``ds`` from the file's folder (null outside
        a partition), all strings.
    Raises:
        DataError: a file of another format, a broken one, or one without a required column.
    """
    groups: dict[tuple[str, bytes], list[str]] = {}
    for file in files:
        if file.suffix not in _FORMATS:
            raise DataError(f"{file} is none of {', '.join(_FORMATS)}; convert it or take it away")
        kind = _FORMATS[file.suffix]
        if kind == "csv" and not file.stat().st_size:
            continue  # a day without events, which has no head
        groups.setdefault((kind, _head(file, kind)), []).append(str(file))
    empty = spark.createDataFrame([], _strings([*columns, MALFORMED, "ds"]))
    parts = [empty]
    for (kind, _), paths in groups.items():
        if kind == "json":
            schema = _strings([*columns, MALFORMED])
            frame = (
                spark.read.schema(schema).option("columnNameOfCorruptRecord", MALFORMED).json(paths)
            )
        elif kind == "csv":
            head = spark.read.option("header", True).csv(paths[0]).columns
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
        present.append(
            f.nullif(f.regexp_extract("_metadata.file_path", _DS, 1), f.lit("")).alias("ds")
        )
        parts.append(frame.select(present))
    return reduce(DataFrame.unionByName, parts[1:] or parts)


def _head(file: Path, kind: str) -> bytes:
    """What files must share to be read together: the columns, where the file itself names them."""
    if kind == "csv":
        with file.open("rb") as opened:
            return opened.readline()
    if kind == "parquet":
        try:
            return str(pq.read_schema(file)).encode()
        except pa.ArrowInvalid as error:
            raise DataError(f"{file} is no whole Parquet file: {error}; deliver it again") from None
    return b""


def _strings(names: list[str]) -> t.StructType:
    return t.StructType([t.StructField(name, t.StringType()) for name in names])
