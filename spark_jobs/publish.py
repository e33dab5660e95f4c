"""Write, audit, publish: check the files of a scored run, then move the pointer.

The audit reads what was written, not what was meant to be. A run that fails it is recorded with the
numbers and never becomes visible; what was published before stands.
"""

import datetime
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_llm.errors import AuditError
from recbole_llm.json_files import check_record
from recbole_llm.published import publish_run
from recbole_llm.warehouse import Warehouse
from spark_jobs.attempts import flush_files, prune_runs
from spark_jobs.audit import Audit, Promise, audit_run
from spark_jobs.config import NightConfig
from spark_jobs.job import Job, run_job

_log = logging.getLogger(__name__)


def promise_of(run: dict[str, Any], root: Path) -> Promise:
    """What a run's table should hold to, by the manifest of its scoring.

    Args:
        run: ``scored.json``, or a day of the pointer.
        root: the warehouse's.
    """
    kinds = {"exclude_seen": bool, "max_per_category": int, "markets": list}
    settings = check_record(run["settings"], kinds, f"the settings of run {run['run_id']}")
    return Promise(
        items=str(root / run["features_path"] / "items"),
        k=run["k"],
        exclude_seen=settings["exclude_seen"],
        max_per_category=settings["max_per_category"],
        markets=settings["markets"],
        explain_ranks=settings.get("explain_ranks", 0),
        labels={
            "ds": datetime.date.fromisoformat(run["ds"]),
            "run_id": run["run_id"],
            "model_version": run["model_version"],
        },
    )


def find_faults(audit: Audit, config: NightConfig, rows_before: int | None) -> list[str]:
    """What keeps a run from being published, in words; empty when nothing does.

    Args:
        rows_before: rows of the last published day before this one; None for the first night.
    """
    faults = [
        f"{name.removeprefix('bad_')}={value}"
        for name, value in asdict(audit).items()
        if name.startswith("bad_") and value
    ]
    if audit.n_rows == 0:
        faults.append("the table is empty")
        return faults
    n_without = audit.n_fallback_users + audit.n_short_users
    share = n_without / max(audit.n_users + audit.n_short_users, 1)
    if share > config.max_fallback_share:
        faults.append(
            f"fallback share {share:.3f} above max_fallback_share {config.max_fallback_share}"
        )
    if rows_before:
        change = abs(audit.n_rows - rows_before) / rows_before
        if change > config.max_row_change:
            faults.append(
                f"{audit.n_rows} rows against {rows_before} on the last published day, a change of "
                f"{change:.2f} above max_row_change {config.max_row_change}"
            )
    return faults


def publish(job: Job) -> None:
    """Audit one day's newest scored run and make it the table of that day.

    Raises:
        AuditError: with the numbers; the run is recorded as failed and nothing else changes.
    """
    started = time.monotonic()
    warehouse = job.warehouse
    run = warehouse.scored_manifest(job.day)
    audit = audit_run(
        job.spark,
        warehouse.root / run["path"],
        warehouse.root / run["features_path"] / "sequences",
        promise_of(run, warehouse.root),
    )
    faults = find_faults(audit, job.config, _rows_before(warehouse, job.day))
    record = {
        **run,
        **asdict(audit),
        "status": "failed" if faults else "published",
        "faults": "; ".join(faults),
        "publish_seconds": round(time.monotonic() - started, 1),
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if faults:
        table = warehouse.published_days().get(job.day, {})
        if table.get("run_id") != run["run_id"]:  # else the row is that of the table, which stands
            warehouse.log_run(run["run_id"], record)
        raise AuditError(
            f"run {run['run_id']} failed its audit and is not published: {record['faults']}; the "
            f"table of {job.day} is what it was"
        )
    kept = ("ds", "run_id", "path", "features_path", "model_version", "settings", "k")
    pointer = {**{key: run[key] for key in kept}, "n_rows": audit.n_rows}
    flush_files(warehouse.root / run["path"])
    publish_run(warehouse, pointer, job.config.keep_runs)
    warehouse.log_run(run["run_id"], record)
    prune_runs(warehouse, job.day)
    _log.info(
        "published %s: %d rows, %d users (%d on the popular fallback), run %s, %.1f s",
        job.day, audit.n_rows, audit.n_users, audit.n_fallback_users, run["run_id"],
        record["publish_seconds"],
    )  # fmt: skip


def _rows_before(warehouse: Warehouse, day: str) -> int | None:
    earlier = [run for each, run in warehouse.published_days().items() if each < day]
    return int(earlier[-1]["n_rows"]) if earlier else None


def main(argv: list[str]) -> int:
    """Entry point; see ``run_job`` for flags and exit codes."""
    return run_job("publish", publish, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
