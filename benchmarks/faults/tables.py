"""What stands in a warehouse: whether a table is whole, what a day holds, what should not be there."""

import hashlib
import json
from pathlib import Path
from typing import Any

import duckdb

from recbole_llm.warehouse import Warehouse
from spark_jobs.state import TABLES

_TABLE = """
    SELECT count(*), count(DISTINCT user_id), count(DISTINCT (user_id, rank)),
           min(rank), max(rank), list(DISTINCT run_id), list(DISTINCT ds::text),
           sum(hash(ds, user_id, rank, item_id, score, reason, model_version, run_id, generated_at, why)
               ::hugeint)::text
    FROM read_parquet($files)
"""
_COUNTS = ("raw", "accepted", "late", "quarantined", "duplicate")


def read_table(database: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, Any]:
    """What a reader finds in a table's folder."""
    row = database.execute(_TABLE, {"files": f"{folder}/*.parquet"}).fetchone()
    assert row is not None
    names = ("rows", "users", "places", "first", "last", "run_ids", "days", "digest")
    return dict(zip(names, row, strict=True))


def find_fault(run: dict[str, Any], table: dict[str, Any], digests: dict[str, str]) -> str | None:
    """Why a table that the pointer names is not one whole audited table; None when it is.

    Args:
        run: the pointer's words.
        table: from ``read_table``.
        digests: of the tables that the undisturbed run published, by run id.
    """
    k = run["k"]
    if not table["rows"] == table["places"] == table["users"] * k == run["n_rows"]:
        return f"{table['rows']} rows of {table['users']} users, {run['n_rows']} promised"
    if (table["first"], table["last"]) != (1, k):
        return f"ranks {table['first']} to {table['last']}"
    if table["run_ids"] != [run["run_id"]] or table["days"] != [run["ds"]]:
        return f"runs {table['run_ids']} of days {table['days']}"
    if table["digest"] != digests.get(run["run_id"]):
        return f"other rows than an undisturbed run's {run['run_id']}"
    return None


def check_published(
    database: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    digests: dict[str, str],
    days: list[str] | None = None,
) -> list[str]:
    """The faults that a reader finds who resolves days through the pointer; all days when None."""
    faults = []
    published = warehouse.published_days()
    for day in published if days is None else days:
        try:
            run = published[day]
            fault = find_fault(run, read_table(database, warehouse.root / run["path"]), digests)
        except (KeyError, duckdb.Error) as error:
            fault = repr(error)
        if fault:
            faults.append(f"{day}: {fault}")
    return faults


def describe_day(warehouse: Warehouse, day: str) -> dict[str, Any]:
    """What a day holds, as far as a run that was disturbed must come to the same.

    Row by row: digests of the sorted rows of the day's table, state and quarantine. The state's
    tables are None where they are past ``keep_days``.
    """
    manifest, run = warehouse.features_manifest(day), warehouse.published_run(day)
    row = json.loads((warehouse.run_log / f"{run['run_id']}.json").read_text(encoding="utf-8"))
    with duckdb.connect() as database:
        features = {
            name: _digest(database, warehouse.root / manifest["path"] / name)
            for name in (*TABLES, "quarantine")
        }
        table = _digest(database, warehouse.root / run["path"])
    return {
        **features,
        "table": table,
        "run_id": run["run_id"],
        "n_rows": run["n_rows"],
        "before": [each["run_id"] for each in run["before"]],
        "fingerprint": manifest["fingerprint"],
        "counts": {name: manifest[f"{name}_rows"] for name in _COUNTS},
        "status": row["status"],
        "carried": row["n_carried_users"],
    }


def _digest(database: duckdb.DuckDBPyConnection, folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    rows = database.execute(f"SELECT * FROM '{folder}/*.parquet' ORDER BY ALL").fetchall()
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def find_leftovers(warehouse: Warehouse, was_named: dict[str, str | None]) -> list[str]:
    """What lies in a warehouse at rest and belongs to nothing that is named.

    Args:
        was_named: the features of each day that were named before its last preparation, which stay
            for a night that may be reading them.
    """
    kept = set()
    for day, run in warehouse.published_days().items():
        kept |= {part[key] for part in (run, *run["before"]) for key in ("path", "features_path")}
        kept |= {f"features/ds={day}/{was_named.get(day)}"}
        kept |= {warehouse.features_manifest(day)["path"], warehouse.scored_manifest(day)["path"]}
    found = {
        str(path.relative_to(warehouse.root))
        for pattern in ("features/ds=*/*", "runs/ds=*/run_id=*/*")
        for path in warehouse.root.glob(pattern)
        if path.is_dir()
    }
    hidden = {
        str(path.relative_to(warehouse.root))
        for pattern in (".*", "_*")
        for path in warehouse.root.rglob(pattern)
        if path.suffix != ".crc" and path.name not in ("_SUCCESS", ".published.lock")
    }
    return sorted((found - kept) | hidden)
