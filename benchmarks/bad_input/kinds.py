"""Kinds of bad input: rows, each with the reason that it must be set aside for, and whole files.

All are of one day, ``DAY``, whose catalogue holds ``ITEMS``.
"""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DAY = "2024-05-02"
MIDNIGHT = 1_714_608_000
NOON = MIDNIGHT + 43_200
ITEMS = [f"i{n}" for n in range(50)]
MAX_DAILY_EVENTS = 1000
_SECONDS_A_DAY = 86_400


def good_event(random_: random.Random) -> dict[str, Any]:
    """An event with nothing wrong with it, and with fields that nobody asked for."""
    return {
        "user_id": f"u{random_.randrange(10_000_000)}",
        "item_id": random_.choice(ITEMS),
        "timestamp": MIDNIGHT + random_.randrange(_SECONDS_A_DAY),
    }


def _with(**changes: Any) -> Callable[[random.Random], bytes]:
    """A good event with fields of another value; a function draws it."""

    def make(random_: random.Random) -> bytes:
        drawn = {key: v(random_) if callable(v) else v for key, v in changes.items()}
        return json.dumps({**good_event(random_), **drawn}).encode()

    return make


def _cut(random_: random.Random) -> bytes:
    whole = json.dumps(good_event(random_)).encode()
    return whole[: random_.randrange(5, len(whole) - 2)]


def _text(pattern: str) -> Callable[[random.Random], bytes]:
    """The row as text: JSON that Python would not write."""

    def make(random_: random.Random) -> bytes:
        return (pattern % random_.randrange(10_000)).encode("latin-1")

    return make


_ROW = '{"user_id": "u%d", "item_id": "i1", "timestamp": 1714651200'
ROW_KINDS: dict[str, tuple[str | None, Callable[[random.Random], bytes]]] = {
    "a record cut short": ("malformed_record", _cut),
    "no JSON": ("malformed_record", _text("GET /events/%d")),
    "latin-1 bytes": ("malformed_record", _text('{"user_id": "caf\xe9%d", "item_id": "i1"}')),
    "an empty record": ("missing_user_id", lambda _: b"{}"),
    "no user": ("missing_user_id", _with(user_id=None)),
    "a blank user": ("missing_user_id", _with(user_id=" \u00a0\u2003")),
    "a user that is a record": ("bad_user_id", _with(user_id={"id": "u"})),
    "a user that is a list": ("bad_user_id", _with(user_id=[1])),
    "a huge user": ("bad_user_id", _with(user_id="u" * 5000)),
    "control characters": ("bad_user_id", _with(user_id="u\u00011\u0085")),
    "a user of a wrong encoding": ("bad_user_id", _with(user_id="caf\ufffd")),
    "no item": ("missing_item_id", _with(item_id=None)),
    "an item with a tab": ("bad_item_id", _with(item_id="i\t1")),
    "an item that is a record": ("bad_item_id", _with(item_id={"id": 1})),
    "no time": ("bad_timestamp", _with(timestamp=None)),
    "a time in words": ("bad_timestamp", _with(timestamp="yesterday")),
    "a time without a date": ("bad_timestamp", _with(timestamp="12:00:00")),
    "a time that is no number": ("bad_timestamp", _text(_ROW[:-10] + "NaN}")),
    "a time that is a list": ("bad_timestamp", _with(timestamp=[NOON])),
    "a time too large": ("bad_timestamp", _text(_ROW + "0" * 400 + "}")),
    "milliseconds": ("timestamp_outside_calendar", _with(timestamp=NOON * 1000)),
    "the future": (
        "timestamp_outside_calendar",
        _with(timestamp=lambda r: MIDNIGHT + r.randrange(1, 999) * _SECONDS_A_DAY),
    ),
    "a negative time": ("timestamp_outside_calendar", _with(timestamp=-NOON)),
    "too late": ("too_late", _with(timestamp=lambda r: MIDNIGHT - 4 * _SECONDS_A_DAY - r.randrange(9))),
    "an unknown kind of event": ("unknown_event_type", _with(event_type="teleport")),
    "a kind of event that is a list": ("unknown_event_type", _with(event_type=["view"])),
    "a rating in words": ("bad_rating", _with(rating="five")),
    "a rating that is no number": ("bad_rating", _text(_ROW + ', "rating": NaN}')),
    "an infinite rating": ("bad_rating", _text(_ROW + ', "rating": -Infinity}')),
    "a rating too large": ("bad_rating", _text(_ROW + ', "rating": 1e999}')),
    "an unknown item": ("unknown_item", _with(item_id=lambda r: f"unheard {r.randrange(999)}")),
    "a robot's": ("robot", _with(user_id="robot")),
    "an ISO time with a zone": (
        None,
        _with(timestamp=lambda r: f"2024-05-02T23:{r.randrange(60):02}:{r.randrange(60):02}+02:00"),
    ),
    "a number as user": (None, _with(user_id=lambda r: r.randrange(10_000_000))),
    "more fields than asked for": (None, _with(device={"kind": ["tv", {"n": 1}]}, page="/x")),
}  # fmt: skip
"""By name: the reason, None where the row is good after all, and how one is made. A robot's rows are
to be more than ``MAX_DAILY_EVENTS``."""


@dataclass(frozen=True)
class FileKind:
    """A file of its own, beside a good one."""

    name: str
    """Of the file."""
    content: bytes
    fault: str | None = None
    """A part of the error that the night must end with; None where it must not."""
    accepted: int = 0
    duplicates: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


GOOD = "".join(
    f'{{"user_id": "g{n}", "item_id": "i{n % 50}", "timestamp": {NOON + n}}}\n' for n in range(200)
).encode()
"""The good file, which lies beside each of ``file_kinds``."""


def _csv(of: str) -> bytes:
    """Two hundred good rows of a file's own users."""
    rows = [f"{of}{n},i1,{NOON}" for n in range(200)]
    return "\n".join(["user_id,item_id,timestamp", *rows, ""]).encode()


def file_kinds() -> dict[str, FileKind]:
    """Files by kind."""
    parquet = _parquet(user_id=[f"p{n}" for n in range(2000)])
    bad_page = bytearray(parquet)
    bad_page[200:260] = bytes(60)
    return {
        "the same file twice": FileKind("again.jsonl", GOOD, duplicates=200),
        "an empty file": FileKind("empty.csv", b""),
        "an empty packed file": FileKind("empty.jsonl.gz", gzip.compress(b"")),
        "a packed file": FileKind("e.csv.gz", gzip.compress(_csv("packed")), accepted=200),
        "a byte order mark": FileKind("bom.csv", b"\xef\xbb\xbf" + _csv("bom"), accepted=200),
        "a byte order mark before JSON": FileKind(
            "bom.jsonl", b"\xef\xbb\xbf" + GOOD, duplicates=200
        ),
        "lines that end with CR LF": FileKind(
            "crlf.csv", _csv("crlf").replace(b"\n", b"\r\n"), accepted=200
        ),
        "JSON lines that end with CR LF": FileKind(
            "c.jsonl", GOOD.replace(b"\n", b"\r\n"), duplicates=200
        ),
        "blank lines": FileKind("blank.jsonl", b"\n\n" + GOOD + b"\n  \n", duplicates=200),
        "many records on a line": FileKind(
            "list.json", b"[" + GOOD.strip().replace(b"\n", b",") + b"]\n", duplicates=200
        ),
        "a quote that does not end": FileKind(
            "quote.csv", _csv("quote") + b'"q,i1,1\nq,i1,%d\n' % NOON, accepted=201,
            reasons={"malformed_record": 1},
        ),
        "rows of another width": FileKind(
            "width.csv", _csv("width") + b"q,i1\nq,i1,1,2\n", accepted=200,
            reasons={"malformed_record": 2},
        ),
        "a latin-1 CSV": FileKind(
            "latin.csv", _csv("latin") + "caf\xe9,i1,1\n".encode("latin-1"), accepted=200,
            reasons={"bad_user_id": 1},
        ),
        "a new column": FileKind(
            "new.parquet", _parquet(user_id=["p"], device=[{"kind": "tv"}]), accepted=1
        ),
        "users that are records": FileKind(
            "nested.parquet", _parquet(user_id=[{"a": 1}]), reasons={"bad_user_id": 1}
        ),
        "nanoseconds": FileKind(
            "nanos.parquet",
            _parquet(user_id=["n"], timestamp=pa.array([NOON * 10**9], pa.timestamp("ns"))),
            accepted=1,
        ),
        "UTF-16": FileKind("utf16.csv", _csv("c").decode().encode("utf-16"), "is not UTF-8 but UTF-16"),
        "UTF-16 without a mark": FileKind(
            "utf16.jsonl", GOOD.decode().encode("utf-16-le"), "is not UTF-8 but UTF-16"
        ),
        "a Parquet file cut short": FileKind(
            "cut.parquet", parquet[: len(parquet) // 2], "is no whole Parquet file"
        ),
        "a Parquet file of damaged pages": FileKind(
            "page.parquet", bytes(bad_page), "is no whole Parquet file"
        ),
        "a packed file cut short": FileKind(
            "cut.jsonl.gz", gzip.compress(GOOD * 500)[:-2000], "is no whole gzip file"
        ),
        "a packed CSV file cut short": FileKind(
            "cut.csv.gz", gzip.compress(_csv("c") * 500)[:-2000], "is no whole gzip file"
        ),
        "a packed file that is none": FileKind("none.jsonl.gz", GOOD, "is no whole gzip file"),
        "a missing column": FileKind("e.csv", b"user_id,item_id\nu,i1\n", "lacks the columns"),
        "a missing column of Parquet": FileKind(
            "e.parquet", _parquet(user=["p"]), "lacks the columns"
        ),
        "two columns of one name": FileKind(
            "two.csv", b"user_id,user_id,item_id,timestamp\nu,v,i1,1\n", "lacks the columns"
        ),
        "another format": FileKind("e.xlsx", b"PK", "is none of"),
    }  # fmt: skip


def _parquet(**columns: Any) -> bytes:
    n = len(next(iter(columns.values())))
    sink = pa.BufferOutputStream()
    table = pa.table({"item_id": ["i1"] * n, "timestamp": [NOON] * n, **columns})
    pq.write_table(table, sink, compression="snappy", use_dictionary=False)
    return bytes(sink.getvalue().to_pybytes())


def write_items(folder: Path) -> None:
    """The catalogue of all the kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"item_id": item, "title": item}) for item in ITEMS]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
