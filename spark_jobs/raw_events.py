"""Read what other systems deliver, as text and in our names: nothing is cast, nothing is lost.

A file is JSON lines (.jsonl, .json) or CSV with a head (.csv), either of them as it is or packed
(.gz), or Parquet (.parquet); text is UTF-8. Bytes in a Parquet file, of a picture or a sound, come back
as a ``data:`` URI. A record that cannot be read comes back with its text in ``malformed`` and nulls
elsewhere. A file that cannot be read is an error that names it.
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from io import BufferedIOBase
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql import types as t

from recbole_llm.errors import DataError
from recbole_llm.raw_files import data_files, is_data
from recbole_llm.warehouse import delivered_days
from spark_jobs.schemas import MALFORMED, MEDIA_COLUMNS

_DS = r"/ds=(\d{4}-\d{2}-\d{2})/[^/]*$"
_FORMATS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".jsonl.gz": "json", ".json.gz": "json",
    ".csv.gz": "csv", ".parquet": "parquet",
}  # fmt: skip
_FORMAT = re.compile("|".join(f"{re.escape(suffix)}$" for suffix in _FORMATS))
_HEAD_BYTES = 1 << 20
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")


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
    return _partitions(folder, after, day)


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
    return _partitions(folder, after, day)


def _partitions(folder: Path, after: str | None, day: str) -> dict[str, list[Path]]:
    days = [each for each in delivered_days(folder) if (after or "") < each <= day]
    for each in days:
        for path in (folder / f"ds={each}").iterdir():
            if path.is_dir() and is_data(path):
                raise DataError(
                    f"{path} is a folder, which nobody would read; put its files into {path.parent}"
                )
    return {each: data_files(folder / f"ds={each}") for each in days}


def read_raw(
    spark: SparkSession,
    files: list[Path],
    columns: tuple[str, ...],
    required: tuple[str, ...],
    fields: Mapping[str, str | list[str]] | None = None,
) -> DataFrame:
    """Read files of any of the formats. A list or a record in a column is its JSON.

    What is broken behind a file's head is met when the rows are read: do that in
    ``naming_broken_files``.

    Args:
        columns: columns to take; those a file lacks are null.
        required: columns each file with a head must have.
        fields: what the files call a column, where they call it otherwise. A list of names is a text
            of all of them, one behind the other with commas, and of what stands in lists of theirs.
    Returns:
        One row a record: ``columns``, ``malformed``, and ``ds`` from the file's folder (null outside
        a partition), all strings.
    Raises:
        DataError: a file of another format or encoding, a broken one, or one without a required
            column.
    """
    fields = fields or {}
    called = {name: _names_of(name, fields) for name in columns}
    theirs = list(dict.fromkeys(chain(*called.values())))
    groups: dict[tuple[str, bytes], list[str]] = {}
    for file in files:
        found = _FORMAT.search(file.name)
        if found is None:
            raise DataError(f"{file} is none of {', '.join(_FORMATS)}; convert it or take it away")
        kind = _FORMATS[found[0]]
        head = str(_schema(file)).encode() if kind == "parquet" else _first_line(file)
        if not head:
            continue  # a day without events, of which a CSV file has no head
        groups.setdefault((kind, b"" if kind == "json" else head), []).append(str(file))
    empty = spark.createDataFrame([], _strings([*columns, MALFORMED, "ds"]))
    parts = [empty]
    for (kind, _), paths in groups.items():
        try:
            frame = _read_group(spark, kind, paths, theirs)
        except AnalysisException as error:
            raise DataError(f"{paths[0]} cannot be read: {error}; deliver it again") from None
        needed = list(chain(*(called[name] for name in required)))
        missing = [name for name in needed if name not in frame.columns]
        if missing:
            raise DataError(
                f"{paths[0]} lacks the columns {missing}; it has {frame.columns}, and {needed} are "
                "required; event_fields and item_fields of the settings say what files call a column"
            )
        ours = [
            _joined(frame, names) if isinstance(fields.get(name), list) else _text(frame, *names)
            for name, names in called.items()
        ]
        day = f.nullif(f.regexp_extract("_metadata.file_path", _DS, 1), f.lit(""))
        made = zip([*columns, MALFORMED, "ds"], [*ours, f.col(MALFORMED), day], strict=True)
        parts.append(frame.select(*(column.alias(name) for name, column in made)))
    return reduce(DataFrame.unionByName, parts[1:] or parts)


def _names_of(column: str, fields: Mapping[str, str | list[str]]) -> list[str]:
    """What files call a column of ours."""
    names = fields.get(column, column)
    return names if isinstance(names, list) else [names]


def _text(frame: DataFrame, name: str) -> Column:
    """A column as text, its lists as JSON; null where a file has no such column."""
    if name not in frame.columns:
        return f.lit(None).cast("string")
    column, kind = f.col(f"`{name}`"), frame.schema[name].dataType
    if isinstance(kind, t.ArrayType | t.MapType | t.StructType):
        return f.to_json(column)
    text = column.cast("string")
    if isinstance(
        kind, t.FloatType | t.DoubleType
    ):  # whole numbers, as pandas has them beside a null
        whole = column.try_cast("bigint")
        return f.when(whole.cast("double") == column, whole.cast("string")).otherwise(text)
    return text


def _joined(frame: DataFrame, names: list[str]) -> Column:
    """Columns as one text, without those that are empty."""
    texts = (_text(frame, name) for name in names)
    flat = (
        f.coalesce(f.array_join(json_list(text), ", "), f.nullif(f.trim(text), f.lit("")))
        for text in texts
    )
    return f.concat_ws(", ", *flat)  # that leaves nulls out


def json_list(text: Column) -> Column:
    """The strings of a JSON list; null where a text is none."""
    is_list = text.rlike(r"(?s)^\s*\[.*\]\s*$")  # from_json takes what begins as one, too
    return f.when(is_list, f.from_json(text, "array<string>"))


def _read_group(spark: SparkSession, kind: str, paths: list[str], columns: list[str]) -> DataFrame:
    """Read files of one format and one head; columns as the files have them, and ``malformed``."""
    reader = spark.read.option("columnNameOfCorruptRecord", MALFORMED)
    if kind == "json":
        return reader.schema(_strings([*columns, MALFORMED])).json(paths)
    if kind == "csv":
        # A quote within quotes is written twice, as in RFC 4180; Spark expects a backslash.
        reader = reader.option("header", True).option("escape", '"')
        head = reader.csv(paths[0]).columns
        return reader.schema(_strings([*head, MALFORMED])).option("enforceSchema", False).csv(paths)
    frame = spark.read.parquet(*paths)
    as_uris = {
        name: f.concat(f.lit("data:application/octet-stream;base64,"), f.base64(name))
        for name, kind in frame.dtypes
        if kind == "binary" and name in MEDIA_COLUMNS
    }
    nanoseconds = {
        field.name: _whole_seconds(field.name)
        for field in _schema(Path(paths[0]))
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns"
    }
    return frame.withColumns({**nanoseconds, **as_uris, MALFORMED: f.lit(None).cast("string")})


def _whole_seconds(name: str) -> Column:
    """Of nanoseconds, which Spark reads as numbers (``spark.sql.legacy.parquet.nanosAsLong``)."""
    return f.expr(f"`{name}` div 1000000000")


@contextmanager
def naming_broken_files(files: list[Path]) -> Iterator[None]:
    """Tell a broken raw file that Spark meets from an accident, after which a retry may succeed.

    Raises:
        DataError: a file that Spark names cannot be read here either.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        named = str(error)
        for file in files:
            if file.name in named:
                _read_whole(file)
        raise


def _read_whole(file: Path) -> None:
    if file.suffix == ".parquet":
        with _naming(file, "Parquet"):
            for _ in pq.ParquetFile(file).iter_batches():
                pass
    elif file.suffix == ".gz":
        with _naming(file, "gzip"), gzip.open(file) as opened:
            while opened.read(_HEAD_BYTES):
                pass


def _first_line(file: Path) -> bytes:
    """The start of a text file: its first line, or as much of it as a head may have."""
    with _naming(file, "gzip"), _open(file) as opened:
        head = opened.readline(_HEAD_BYTES)
    if head.startswith(_OTHER_ENCODINGS) or b"\0" in head[:4]:
        raise DataError(f"{file} is not UTF-8 but UTF-16 or the like; deliver it as UTF-8")
    return head


def _schema(file: Path) -> pa.Schema:
    with _naming(file, "Parquet"):
        return pq.read_schema(file)


@contextmanager
def _naming(file: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the file system's, which may be otherwise the next time
        raise DataError(f"{file} is no whole {kind} file: {error}; deliver it again") from None


def _open(file: Path) -> BufferedIOBase:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _strings(names: list[str]) -> t.StructType:
    return t.StructType([t.StructField(name, t.StringType()) for name in names])
