"""Forget a user: take them out of all that the warehouse and its sinks hold, and keep them out.

First the user is blocked (``blocks``), so that nothing that comes later brings them back. Then every
file that knows them is written anew without them, in one step each: raw events, states, tables. What
manifests count is corrected, so that the next night goes on from what is left. A run that is stopped
is finished by the next.
"""

import csv
import datetime
import gzip
import hashlib
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_llm.blocks import FORGOTTEN, block
from recbole_llm.errors import ConfigError, DataError, UnavailableError
from recbole_llm.json_files import check_record, parse_json, read_json
from recbole_llm.locks import no_job
from recbole_llm.pseudonyms import KEYS_FILE, is_pseudonym, keys_source, read_user_keys
from recbole_llm.published import correct_run
from recbole_llm.raw_files import raw_digests
from recbole_llm.sinks import open_sink
from recbole_llm.warehouse import Warehouse, replace_json

_MARK = "\ufeff"
"""Of the byte order, where a file begins with it."""
_OF_ITEMS = ("artifacts/", "cache/", "metrics/", "raw/items/", "reports/")
"""What holds no user, and items and counts that may be called as one is."""
_OF_AIRFLOW = "airflow/"
_MOST_TIMES = 9
"""That one user is forgotten between two looks at a state."""


@dataclass
class Report:
    """What was removed, by path below the warehouse."""

    rows: dict[str, int] = field(default_factory=dict)
    """Rows of the user by file."""
    deleted: list[str] = field(default_factory=list)
    """Folders and files that were deleted whole; they are made anew when they are needed."""
    sinks: dict[str, int] = field(default_factory=dict)
    """Rows by sink."""
    artifacts: list[str] = field(default_factory=list)
    """Models trained on data that the user was in; marked, and gone with the next champions."""
    left: list[str] = field(default_factory=list)
    """Files that name the user all the same."""


def names_of(warehouse: Warehouse, user_id: str) -> list[str]:
    """What stands for a user anywhere, first the name that is blocked.

    Args:
        user_id: an id, or the pseudonym of one under the oldest key.
    Returns:
        The pseudonyms under one key, under two and so on, and what was given. Without keys that alone.
    Raises:
        ConfigError: the warehouse's users are pseudonyms by other keys than those here.
    """
    source = keys_source()
    keys = read_user_keys() if source is None or source.exists() else None
    here = keys.names if keys else []
    for where, then in _keys_in_use(warehouse):
        if then != here[: len(then)]:
            raise ConfigError(
                f"users in {where} are pseudonyms by the keys {then}, those here are {here}: let "
                f"{KEYS_FILE} name the file that the jobs read. Nothing was changed"
            )
    if keys is None:
        return [user_id]
    ages = range(1, len(keys.names) + 1)
    if is_pseudonym(user_id):
        return [keys.renewed(user_id, 1, n) for n in ages]
    return [*(keys.pseudonym(user_id, n) for n in ages), user_id]


def _keys_in_use(warehouse: Warehouse) -> Iterator[tuple[str, list[str]]]:
    """Which states and published tables there are, and the names of the keys of their users."""
    for day, manifest in warehouse.features_manifests().items():
        if (warehouse.root / manifest["path"] / "sequences").is_dir():
            yield f"the state of {day}", manifest["user_keys"]
    for day, run in warehouse.published_days().items():
        yield f"the table of {day}", run.get("settings", {}).get("user_keys", [])


def user_column(settings: dict[str, Any]) -> str:
    """What raw events call the user, by the night's settings.

    Raises:
        ConfigError: their ``event_fields`` hold no names.
    """
    fields = settings.get("event_fields", {})
    column = fields.get("user_id", "user_id") if isinstance(fields, dict) else None
    if not isinstance(column, str):
        raise ConfigError(f"event_fields must hold names of columns, got {fields!r}")
    return column


def forget(warehouse: Warehouse, user_id: str, sinks: list[str], column: str = "user_id") -> Report:
    """Remove a user from a warehouse and its sinks, and block them.

    Args:
        user_id: an id, or a pseudonym under the oldest key. Where a table has plain ids, the id.
        sinks: addresses of the tables' copies.
        column: from ``user_column``, of the raw events.
    Raises:
        ConfigError: see ``names_of``.
        UnavailableError: a job of the night or a training is at work, or a sink does not answer. The
            user is blocked already; the same again goes on.
        DataError: a file cannot be read.
    """
    names = names_of(warehouse, user_id)
    mark = block(warehouse, names)
    report = Report()
    with ExitStack() as stack:
        try:
            stack.enter_context(no_job(warehouse))
        except UnavailableError as error:
            raise UnavailableError(f"the user is blocked, and not yet removed: {error}") from None
        for path in _raw_files(warehouse):
            with _naming_damaged(path):
                _without_records(path, names, warehouse, report, column)
        for pattern in ("features/ds=*/*/*/*.parquet", "runs/ds=*/run_id=*/*/*.parquet"):
            for path in sorted(warehouse.root.glob(pattern)):
                with _naming_damaged(path):
                    _without_rows(path, names, warehouse, report)
        _correct_manifests(warehouse, mark)
        if warehouse.training.is_dir():  # atomic files and logs of the last training
            shutil.rmtree(warehouse.training)
            report.deleted.append(_below(warehouse.training, warehouse))
        for address in sinks:
            sink = stack.enter_context(closing(open_sink(address)))
            with sink.lock():
                report.sinks[address] = sink.forget(names)
        report.artifacts = _mark_artifacts(warehouse, mark)
        report.left = _files_with(warehouse, names)
    return report


@contextmanager
def _naming_damaged(path: Path) -> Iterator[None]:
    """Name the file that cannot be read; nobody can say whether the user is in it."""
    try:
        yield
    except (
        pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error
    ) as error:  # fmt: skip
        if getattr(error, "errno", None) is not None:
            raise  # the file system's
        raise DataError(
            f"{path} cannot be read: {error}. The user is blocked; mend the file or delete it, and ask "
            "again, which goes on"
        ) from None


# --- files ------------------------------------------------------------------------------------


def _raw_files(warehouse: Warehouse) -> list[Path]:
    return [path for path in sorted(warehouse.raw_events.glob("ds=*/*")) if path.is_file()]


def _without_rows(
    path: Path, names: list[str], warehouse: Warehouse, report: Report, column: str = "user_id"
) -> None:
    """Write a Parquet file anew without a user's rows; a quarantine's without their records."""
    file = pq.ParquetFile(path)
    if column in file.schema_arrow.names:
        table = file.read()
        users = pc.utf8_trim_whitespace(_as_text(table[column]))
        is_theirs = pc.fill_null(pc.is_in(users, value_set=pa.array(names)), False)
        after = table.filter(pc.invert(is_theirs))
    elif "raw" in file.schema_arrow.names:
        table = file.read()
        speaks = [_speaks_of(raw or "", names) for raw in table["raw"].to_pylist()]
        is_theirs = pa.chunked_array([pa.array(speaks, pa.bool_())])
        column = table.schema.get_field_index("raw")
        after = table.set_column(
            column, table.schema.field(column), pc.if_else(is_theirs, FORGOTTEN, table["raw"])
        )
    else:
        return
    if n := pc.sum(is_theirs).as_py():
        rows = max(file.metadata.row_group(0).num_rows, 1)
        with _replaced(path) as staging:
            pq.write_table(after, staging, row_group_size=rows)
        report.rows[_below(path, warehouse)] = n


def _as_text(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as the night reads them: whole numbers without a point or an exponent."""
    text = ids.cast(pa.string())
    if not pa.types.is_floating(ids.type):
        return text
    whole = pc.cast(ids, pa.int64(), safe=False)
    return pc.if_else(pc.equal(pc.cast(whole, ids.type), ids), whole.cast(pa.string()), text)


def _without_records(
    path: Path, names: list[str], warehouse: Warehouse, report: Report, column: str = "user_id"
) -> None:
    """Write a raw file anew without a user's records, readable or not."""
    if path.suffix == ".parquet":
        if column not in (there := pq.read_schema(path).names):
            raise DataError(
                f"{path} has the columns {there} and none {column!r} of users; give --config, whose "
                "event_fields name it. The user is blocked; ask again, which goes on"
            )
        _without_rows(path, names, warehouse, report, column)
        return
    opened: Any = gzip.open if path.suffix == ".gz" else open
    text = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with opened(path, "rt", **text) as file:
        lines = list(file)  # cut at ends of lines alone, as Spark does
    head = []
    if ".csv" in path.suffixes:
        head = next(csv.reader([line.removeprefix(_MARK) for line in lines[:1]]), [])
    kept = [line for line in lines if not _speaks_of(line, names, column, head)]
    if len(kept) < len(lines):
        with _replaced(path) as staging, opened(staging, "wt", **text) as file:
            file.writelines(kept)
        report.rows[_below(path, warehouse)] = len(lines) - len(kept)


def _speaks_of(
    record: str, names: list[str], column: str = "user_id", head: list[str] | None = None
) -> bool:
    """Whether a record is one of these users: by its column of users where it can be read, else by
    the name as a word in it."""
    record = record.removeprefix(_MARK)
    if "\\" not in record and not any(name in record for name in names):
        return False
    try:
        if head:
            return dict(zip(head, next(csv.reader([record])), strict=True))[column].strip() in names
        return str(parse_json(record)[column]).strip() in names
    except (ValueError, KeyError, TypeError, csv.Error):
        return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", record) for name in names)


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A path to write to, which then takes the place of another in one step."""
    staging = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield staging
        # Hadoop's checksum of what was there before would call the new content damaged.
        path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


# --- what tells of them -----------------------------------------------------------------------


def _correct_manifests(warehouse: Warehouse, mark: str) -> None:
    """Let manifests and the pointer say what is there now.

    Totals are what the next night subtracts; a fingerprint becomes another, and so does what the
    manifest of a state upon it calls it; digests are those of the raw files now.
    """
    fingerprints: dict[str, str] = {}
    for day, manifest in warehouse.features_manifests().items():
        fingerprints[day] = manifest["fingerprint"]
        if mark in manifest.get("forgotten", []):
            continue
        since = manifest["base"]["ds"] if manifest["base"] else None
        now = raw_digests(warehouse, since, day)
        manifest["sources"] = {
            name: now.get(name, digest) for name, digest in manifest["sources"].items()
        }
        fingerprints[day] = manifest["fingerprint"] = _next(manifest["fingerprint"], mark)
        if manifest["base"]:
            _follow(manifest["base"], fingerprints.get(since or ""), mark)
        sequences = warehouse.root / manifest["path"] / "sequences"
        if sequences.is_dir():
            counts = pq.read_table(sequences, columns=["n_events", "n_duplicates"])
            manifest["n_users"] = len(counts)
            manifest["total_events"] = pc.sum(counts["n_events"]).as_py() or 0
            manifest["total_duplicates"] = pc.sum(counts["n_duplicates"]).as_py() or 0
        manifest["forgotten"] = [*manifest.get("forgotten", []), mark]
        replace_json(warehouse.features(day) / "manifest.json", manifest)
    for day, run in warehouse.published_days().items():
        for each in (run, *run["before"]):
            each["n_rows"] = _count_rows(warehouse.root / each["path"])
        correct_run(warehouse, day, run)


def _follow(base: dict[str, Any], now: str | None, mark: str) -> None:
    """Let a state call the one below it as that is called now, where its name has changed for this
    user alone: in this run, in one that was stopped, or at an earlier time that they were forgotten."""
    name = base["fingerprint"]
    for _ in range(_MOST_TIMES):
        if name == now:
            base["fingerprint"] = name
            return
        name = _next(name, mark)


def _next(fingerprint: str, mark: str) -> str:
    return hashlib.sha256(f"{fingerprint}{mark}".encode()).hexdigest()


def _count_rows(table: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in table.glob("[!.]*.parquet"))


def _mark_artifacts(warehouse: Warehouse, mark: str) -> list[str]:
    """Say beside each model that its data is no longer all there; models hold items, not users."""
    marked = []
    for index in sorted(warehouse.artifacts.glob("*/artifact.json")):
        path = index.with_name("forgotten.json")
        kinds = {"marks": list}
        before = check_record(read_json(path), kinds, path)["marks"] if path.is_file() else []
        marks = sorted({*before, mark})  # once, however often it is asked for
        today = datetime.date.today().isoformat()
        replace_json(path, {"n_users": len(marks), "last": today, "marks": marks})
        marked.append(index.parent.name)
    return marked


def _files_with(warehouse: Warehouse, names: list[str]) -> list[str]:
    """Other files below the warehouse with a name in them, as a string or as a word.

    In JSON, and in what Airflow keeps, an id counts as a string alone: the word 42 stands in many a
    figure and time of day.
    """
    word, string = r"(?<!\w){}(?!\w)", r"""["']{}\\?["']"""
    words, strings = (
        re.compile("|".join(
            (word if is_pseudonym(name) else pattern).format(re.escape(name)) for name in names
        ).encode())
        for pattern in (word, string)
    )  # fmt: skip
    done = {*_raw_files(warehouse), *warehouse.root.rglob("*.parquet")}
    found = []
    for path in sorted({*warehouse.root.rglob("*")} - done):
        below = _below(path, warehouse)
        if path.is_file() and path.stat().st_size and not below.startswith(_OF_ITEMS):
            as_strings = path.suffix == ".json" or below.startswith(_OF_AIRFLOW)
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                if (strings if as_strings else words).search(content):
                    found.append(below)
    return found


def _below(path: Path, warehouse: Warehouse) -> str:
    return str(path.relative_to(warehouse.root))
