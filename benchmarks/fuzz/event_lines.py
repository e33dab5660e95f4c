"""Raw lines through the night's own reading in Spark, thousands a job.

Every line has to come out, accepted or with a reason, and no job may fail. Lines that Spark reads as
other than one record are left out: blank ones, and lists of records. The first line of a file is a
good one, as its head says how the file is read.
"""

import datetime
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fuzz.tally import Tally

_LINES = 5000
_DAY = "2024-05-02"
_ODD = (
    b"null", b"NaN", b"-1", b"1e400", b"[]", b"{}", b'""', b"\xff", b"\xc3", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"\x00", b"\\u0000", b"\\ud800", b'\\"', b'"', b"'", b"{", b"}", b"[", b"]",
    b",", b":", b"\\", b"\t", b"9" * 40, b"0x1", b"true", b"2024-05-02 25:00", b"+99999-01-01",
    b"0000-00-00", b"-Infinity", b"\xe2\x80\xa8", b"\xc2\x85", b"user_id", b"item_id", b"timestamp",
    b"rating", b"malformed", b"ds", b"{" * 2000, b'{"a":' * 1200, b"1714651200000000000000",
    b"1714651200.9999999999", b"1e-999",
)  # fmt: skip


def run(name: str, tally: Tally, seconds: float, number: int, scratch: Path) -> None:
    """Read batch after batch until the time is up."""
    from recbole_llm.config_files import config_path
    from spark_jobs.config import load_night_config
    from spark_jobs.job import start_spark

    random_ = random.Random(number)
    kind, make, read = _KINDS[name]
    os.environ.setdefault("RECBOLE_LLM_USER_KEYS", "ab" * 32)
    config = load_night_config(config_path(".", "nightly"))
    with start_spark("fuzz", config) as spark:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            lines = [line for line in (make(random_) for _ in range(_LINES)) if _is_record(line)]
            read_batch(tally, lines, lambda some: read(spark, config, scratch / kind, some))


def read_batch(tally: Tally, lines: list[bytes], count: Callable[[list[bytes]], int]) -> None:
    """Count a batch's lines, and find those of which a job fails or that vanish.

    Args:
        count: reads lines and says how many rows came of them.
    """
    tally.inputs += len(lines)
    for fault, line in _faults(lines, count):
        tally.note(fault, "spark_jobs", line)
    tally.save()


def _faults(lines: list[bytes], count: Callable[[list[bytes]], int]) -> list[tuple[str, bytes]]:
    """What is wrong with a batch, halved until a line is left; of two in one batch the first alone."""
    fault = _fault(lines, count)
    if fault is None:
        return []
    while len(lines) > 1:
        half = lines[: len(lines) // 2]
        if (found := _fault(half, count)) is not None:
            lines, fault = half, found
        elif (found := _fault(rest := lines[len(lines) // 2 :], count)) is not None:
            lines, fault = rest, found
        else:
            break  # of these lines together alone
    return [(fault, b"\n".join(lines))]


def _fault(lines: list[bytes], count: Callable[[list[bytes]], int]) -> str | None:
    try:
        rows = count(lines)
    except Exception as error:  # noqa: BLE001 - whatever a job raises is what is looked for
        return type(error).__name__
    if rows == len(lines):
        return None
    return "lines that vanish" if rows < len(lines) else "lines that double"


def _is_record(line: bytes) -> bool:
    start = line.lstrip(b"\0\t \x0b\x0c\x1c\x1d\x1e\x1f\xef\xbb\xbf")
    return bool(bytes(byte for byte in line if byte > 0x20)) and not start.startswith(b"[")


def _count_events(spark: Any, config: Any, folder: Path, lines: list[bytes]) -> int:
    from spark_jobs import schemas
    from spark_jobs.cleaning import check_events
    from spark_jobs.raw_events import naming_broken_files, read_raw

    is_csv = folder.name == "csv"
    head = b"user_id,item_id,timestamp,rating,event_type\n" if is_csv else b"{}\n"
    file = _written(folder, head, lines)
    raw = read_raw(spark, [file], schemas.EVENT_COLUMNS, schemas.REQUIRED_EVENT_COLUMNS)
    items = spark.createDataFrame(
        [("i1", datetime.date(2024, 5, 1))], "item_id string, first_seen date"
    )
    with naming_broken_files([file]):
        checked = check_events(raw, items, datetime.date(2024, 5, 1), config)
        return _n_rows(checked) - (not is_csv)


def _count_items(spark: Any, config: Any, folder: Path, lines: list[bytes]) -> int:
    from spark_jobs import schemas
    from spark_jobs.cleaning import check_items
    from spark_jobs.raw_events import naming_broken_files, read_raw

    file = _written(folder, b"{}\n", lines)
    raw = read_raw(spark, [file], schemas.RAW_ITEM_COLUMNS, ("item_id",))
    with naming_broken_files([file]):
        return _n_rows(check_items(raw, ["DE"])) - 1


def _n_rows(frame: Any) -> int:
    """Rows of a frame, every column of which is made."""
    from pyspark.sql import functions as f

    row = frame.agg(f.count(f.lit(1)), f.bit_xor(f.xxhash64(*frame.columns))).first()
    return int(row[0])


def _written(folder: Path, head: bytes, lines: list[bytes]) -> Path:
    file = folder / f"ds={_DAY}" / ("events.csv" if folder.name == "csv" else "events.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(head + b"".join(line + b"\n" for line in lines))
    return file


def _event_line(random_: random.Random) -> bytes:
    from benchmarks.bad_input.kinds import ROW_KINDS, good_event

    if random_.random() < 0.5:
        line = json.dumps({**good_event(random_), "item_id": "i1", "rating": 3}).encode()
    else:
        line = random_.choice(list(ROW_KINDS.values()))[1](random_)
    return _mutated(line, random_)


def _csv_line(random_: random.Random) -> bytes:
    return _mutated(
        b"u%d,i1,17146512%02d,3,view" % (random_.randrange(99), random_.randrange(99)), random_
    )


def _item_line(random_: random.Random) -> bytes:
    item = {
        "item_id": f"i{random_.randrange(9999)}", "title": "Call 030 1234567, mail a@b.de",
        "category": "x", "description": "d " * 9, "markets": ["de"],
        "available": random_.choice([True, "no", 1, None]),
    }  # fmt: skip
    return _mutated(json.dumps(item).encode(), random_)


def _mutated(line: bytes, random_: random.Random) -> bytes:
    """A line with up to four pieces taken out, put in or put elsewhere; no line break."""
    for _ in range(random_.randrange(5)):
        place, length = random_.randrange(len(line) + 1), random_.choice([0, 0, 1, 2, 9, 40])
        piece = random_.choice([
            random_.choice(_ODD), random_.randbytes(random_.randrange(1, 5)),
            line[(start := random_.randrange(len(line) + 1)) : start + 20],
        ])  # fmt: skip
        line = line[:place] + piece + line[place + length :]
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


_KINDS: dict[str, tuple[str, Callable[[random.Random], bytes], Callable[..., int]]] = {
    "raw JSON lines in Spark": ("json", _event_line, _count_events),
    "raw CSV in Spark": ("csv", _csv_line, _count_events),
    "raw item lines in Spark": ("items", _item_line, _count_items),
}
