"""Write, audit, publish: check the files of a scored run, then move the pointer.

The audit reads what was written, not what was meant to be. A run that fails it is recorded with the
numbers and never becomes visible; what was published before stands.
"""

import datetime
import logging
import sys
import time
from dataclasses import asdict, dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from recbole_llm.errors import AuditError
from recbole_llm.published import publish_run
from recbole_llm.warehouse import Warehouse
from spark_jobs import schemas
from spark_jobs.attempts import flush_files, prune_runs
from spark_jobs.config import NightConfig
from spark_jobs.job import Job, run_job

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Audit:
    """What stands in a run's files; every ``bad_`` count must be 0."""

    n_rows: int
    n_users: int
    n_fallback_users: int
    bad_absent_users: int
    """Active users without a recommendation."""
    bad_stranger_users: int
    """Users in the table who are not active."""
    bad_rank_users: int
    """Users whose ranks are not exactly 1..K."""
    bad_repeat_users: int
    """Users with an item twice."""
    bad_score_users: int
    """Users with a score that is not finite, or that rises with the rank."""
    bad_seen_users: int
    """Users who are recommended what they have met."""
    bad_unavailable_item_rows: int
    """Rows whose item is not in the day's catalogue, or not available."""


def audit_table(
    table: DataFrame, sequences: DataFrame, items: DataFrame, k: int, exclude_seen: bool
) -> Audit:
    """Hold a table against the features that it was made from.

    Args:
        table: schema ``RECOMMENDATIONS``.
        sequences: schema ``SEQUENCES``, one row an active user.
        items: schema ``ITEMS``, the day's catalogue.
        k: rows each user must have.
        exclude_seen: whether a met item is a fault.
    """
    per_user = table.groupBy("user_id").agg(
        f.sort_array(f.collect_list(f.struct("rank", "score", "item_id"))).alias("rows"),
        f.max((f.col("reason") == schemas.REASON_POPULAR).cast("int")).alias("is_fallback"),
    )
    # Both sides are unique in user_id.
    joined = sequences.select("user_id", "item_ids").join(per_user, on="user_id", how="full")
    scores = f.col("rows.score")
    is_bad_score = f.exists(scores, lambda s: f.isnan(s) | (f.abs(s) == float("inf"))) | (
        scores != f.reverse(f.array_sort(scores))
    )
    in_table = f.col("rows").isNotNull()
    ranks = f.array(*[f.lit(rank).cast("smallint") for rank in range(1, k + 1)])
    item_ids = f.col("rows.item_id")
    flags = {
        "n_users": in_table,
        "n_fallback_users": f.col("is_fallback") == 1,
        "bad_absent_users": ~in_table,
        "bad_stranger_users": f.col("item_ids").isNull(),
        "bad_rank_users": f.col("rows.rank") != ranks,
        "bad_repeat_users": f.size(f.array_distinct(item_ids)) != f.size(item_ids),
        "bad_score_users": is_bad_score,
        "bad_seen_users": f.lit(exclude_seen) & f.arrays_overlap(item_ids, f.col("item_ids")),
    }
    row = joined.agg(
        *(f.coalesce(f.sum(flag.cast("bigint")), f.lit(0)).alias(n) for n, flag in flags.items())
    ).first()
    assert row is not None
    on_sale = items.where("available").select("item_id")
    strange = table.join(on_sale, on="item_id", how="left_anti").count()
    return Audit(n_rows=table.count(), bad_unavailable_item_rows=strange, **row.asDict())


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
    share = audit.n_fallback_users / max(audit.n_users, 1)
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
    warehouse, spark = job.warehouse, job.spark
    run = warehouse.scored_manifest(job.day)
    features = warehouse.root / run["features_path"]
    table = spark.read.schema(schemas.RECOMMENDATIONS).parquet(str(warehouse.root / run["path"]))
    audit = audit_table(
        table.persist(),
        spark.read.parquet(str(features / "sequences")),
        spark.read.parquet(str(features / "items")),
        run["k"],
        job.config.exclude_seen,
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
