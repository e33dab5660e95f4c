"""The truth about a night: the table of before held against the day's events, the new one against it.

Runs when a day is published, and again whenever its row is wanted anew: the row depends on the
tables that are published then, on the states behind them and on the rows of the days before. So a
backfill is measured in the order of its days. Writes ``metrics/D.json``, a row of the table
``metrics_daily``, and the report of the night. A figure outside its band is a warning, never a
failure.
"""

import datetime
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from recbole_llm.errors import NotFoundError
from recbole_llm.figures import COLUMNS, FIGURES
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs import schemas
from spark_jobs.bands import judge
from spark_jobs.held_out import Base, collect_acts, collect_lists, hold_against
from spark_jobs.job import Job, run_job
from spark_jobs.pseudonyms import keys_before, renew_users
from spark_jobs.report import write_reports
from spark_jobs.table_figures import (
    Scores,
    compare_lists,
    count_items,
    count_scores,
    population_stability,
    spread,
)

_log = logging.getLogger(__name__)
_DECIMALS = 6
"""Sums of floats differ in their last places with the order in which tasks end."""
_N_TOP_ITEMS = 12
_N_BARS = 50


def measure(job: Job) -> None:
    """Measure one published day, from its tables to its row and its report.

    Raises:
        NotFoundError: the day is not published, or the state behind its table was deleted.
    """
    started = time.monotonic()
    warehouse, spark = job.warehouse, job.spark
    published = warehouse.published_days()
    run = warehouse.published_run(job.day)
    logged = warehouse.logged_run(run["run_id"])
    state = warehouse.root / run["features_path"]
    if not (state / "recent").is_dir():
        raise NotFoundError(
            f"the state behind the table of {job.day} was deleted {job.config.keep_days} days after "
            "it; prepare, score and publish the day again, or leave its row as it is"
        )
    day = datetime.date.fromisoformat(job.day)
    earlier = [published[each] for each in published if each < job.day]
    base_run = earlier[-1] if earlier else None
    table = _read_table(job, run)
    base_table = None
    if base_run:
        base_table = renew_users(_read_table(job, base_run), _keys_before(run, base_run))
    lists = collect_lists(table)
    base_lists = collect_lists(base_table).persist() if base_table is not None else None
    acts = collect_acts(spark.read.schema(schemas.RECENT).parquet(str(state / "recent")), day)
    items = spark.read.schema(schemas.ITEMS).parquet(str(state / "items"))
    counts = count_items(table, items)
    scores = count_scores(table, base_table)

    figures: dict[str, Any] = {
        **spread(counts["n_events"].to_numpy(), counts["n_lists"].to_numpy()),
        **compare_lists(lists, base_lists),
        **_rates(logged),
        "n_active_users": acts.count(),
    }
    if base_run is not None and base_lists is not None:
        figures |= hold_against(acts, _base(job, base_run, base_lists, _keys_before(run, base_run)))
        base_day = datetime.date.fromisoformat(base_run["ds"])
        figures["n_new_items"] = pc.sum(pc.greater(counts["first_seen"], base_day)).as_py() or 0
        if scores is not None:
            figures["score_psi"] = population_stability(scores.before, scores.now)
    details = {
        "top_items": _top_items(counts),
        "reasons": _count_reasons(job, state),
        "scores": _bars(scores),
    }
    if base_lists is not None:
        base_lists.unpersist()

    figures["measure_seconds"] = round(time.monotonic() - started, 1)
    row = {
        "ds": job.day,
        **{name: run[name] for name in ("run_id", "model_version", "k")},
        **{
            f"base_{name}": base_run[name] if base_run else None
            for name in ("ds", "run_id", "model_version", "k")
        },
        **{name: _rounded(figures.get(name)) for name in FIGURES},
    }
    history = rows_that_stand(warehouse, job.day)
    judged = judge(row, history[-job.config.band_nights :], job.config.bands)
    warnings = [each.words for each in judged.values() if each.is_out]
    row |= {"n_warnings": len(warnings), "warnings": "; ".join(warnings)}
    for words in warnings:
        _log.warning("night of %s: %s", job.day, words)
    row = {**{name: row[name] for name in COLUMNS}, "details": details}
    replace_json(warehouse.metrics / f"{job.day}.json", row)
    write_reports(warehouse, row, history, judged)
    _log.info(
        "measured %s: %d figures outside their bands, %.1f s, report %s",
        job.day, len(warnings), row["measure_seconds"], warehouse.report(job.day),
    )  # fmt: skip


def rows_that_stand(warehouse: Warehouse, before: str) -> list[dict[str, Any]]:
    """Rows of the measured days before a day, oldest first, whose run is still their day's table."""
    published = warehouse.published_days()
    return [
        row
        for day, row in warehouse.measured_days().items()
        if day < before and published.get(day, {}).get("run_id") == row["run_id"]
    ]


def _read_table(job: Job, run: dict[str, Any]) -> DataFrame:
    path = str(job.warehouse.root / run["path"])
    return job.spark.read.schema(schemas.RECOMMENDATIONS).parquet(path)


def _keys_before(run: dict[str, Any], base_run: dict[str, Any]) -> int | None:
    now, then = (each["settings"].get("user_keys", []) for each in (run, base_run))
    return keys_before(now, then) if now and then == now[: len(then)] else None


def _base(job: Job, run: dict[str, Any], lists: DataFrame, n_keys: int | None) -> Base:
    state = job.warehouse.root / run["features_path"]
    read = job.spark.read
    if not (state / "sequences").is_dir():
        _log.warning("the state behind the table of %s was deleted: no control, and no figures over "
                     "first-time items", run["ds"])  # fmt: skip
        return Base(lists, None, None, run["k"], False, 0)
    return Base(
        lists,
        renew_users(read.schema(schemas.SEQUENCES).parquet(str(state / "sequences")), n_keys),
        read.schema(schemas.ITEMS).parquet(str(state / "items")),
        run["k"],
        run["settings"]["exclude_seen"],
        job.config.max_history,
    )


def _rates(logged: dict[str, Any]) -> dict[str, Any]:
    """What the run's row says of the night's input and of its jobs."""
    raw, accepted = logged["raw_rows"], logged["accepted_rows"]
    return {
        "raw_rows": raw,
        "quarantine_rate": logged["quarantined_rows"] / raw if raw else None,
        "duplicate_rate": logged["duplicate_rows"] / raw if raw else None,
        "late_rate": logged["late_rows"] / accepted if accepted else None,
        **{name: logged[name] for name in ("features_seconds", "score_seconds", "publish_seconds")},
    }


def _top_items(counts: pa.Table) -> list[dict[str, Any]]:
    listed = counts.filter(pc.field("n_lists") > 0).drop_columns(["first_seen"])
    first = listed.sort_by([("n_lists", "descending"), ("item_id", "ascending")])
    rows: list[dict[str, Any]] = first.slice(0, _N_TOP_ITEMS).to_pylist()
    return rows


def _count_reasons(job: Job, state: Path) -> dict[str, int]:
    rows = job.spark.read.schema(schemas.QUARANTINE).parquet(str(state / "quarantine"))
    counts = rows.groupBy("source", "reason").count().collect()
    found = {f"{row['source']}.{row['reason']}": int(row["count"]) for row in counts}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def _bars(scores: Scores | None) -> dict[str, Any] | None:
    """The scores in fewer bins, to be drawn."""
    if scores is None:
        return None
    now, before = (
        counts.reshape(_N_BARS, -1).sum(axis=1).tolist() for counts in (scores.now, scores.before)
    )
    return {"least": scores.least, "most": scores.most, "now": now, "before": before}


def _rounded(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return round(float(value), _DECIMALS)
    return value if value is None else int(value)


def main(argv: list[str]) -> int:
    """Entry point; see ``run_job`` for flags and exit codes."""
    return run_job("measure_night", measure, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
