"""Score a day: rank items for every active user on Spark's workers and write a run folder.

A run's id is a hash of what it was made from (day, features, model, settings), so a repeated night
has the same id and the same rows. Nothing is visible to readers until ``publish`` names it.
"""

import datetime
import functools
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Row, SparkSession

from recbole_llm.errors import DataError, RecboleLlmError
from recbole_llm.lists.catalogue import Catalogue, available_items, read_catalogue
from recbole_llm.lists.freshness import Freshness
from recbole_llm.lists.ranker import read_list_settings
from recbole_llm.lists.strategy import RECENT, read_strategy
from recbole_llm.scoring import Artifact, load_artifact
from recbole_llm.warehouse import new_attempt, replace_json
from spark_jobs import schemas
from spark_jobs.attempts import prune_runs
from spark_jobs.carry_over import Base
from spark_jobs.config import NightConfig
from spark_jobs.job import Job, run_each, run_job
from spark_jobs.ranking import RankingTask, score_files

_log = logging.getLogger(__name__)


def find_run_to_carry(job: Job, artifact: Artifact, features: dict[str, Any]) -> Base | None:
    """The newest run published for an earlier day that this one can carry over from.

    None where there is none, where the model or a setting is another, where a table or state was
    deleted, where an item can be recommended now that could not be then, where scores fall with every
    day, or where lists have other sources than the model, which change from day to day.
    """
    earlier = [run for day, run in job.warehouse.published_days().items() if day < job.day]
    changes_daily = (
        job.config.freshness_half_life_days or not read_strategy(job.config.strategy).is_model_alone
    )
    if not job.config.carry_over or not earlier or changes_daily:
        return None
    run = earlier[-1]
    root = job.warehouse.root
    table, state = root / run["path"], root / run["features_path"]
    if (
        run.get("settings") != run_settings(artifact, job.config, features["user_keys"])
        or not table.is_dir()
        or not (state / "sequences").is_dir()
    ):
        return None
    known = set(artifact.item_ids)
    then, now = (
        {each for each in _choice(folder, job.config) if each[0] in known}
        for folder in (state, root / features["path"])
    )
    if now - then:
        return None
    return Base(str(table), str(state / "sequences"), sorted(item for item, *_ in then - now))


def _choice(features: Path, config: NightConfig) -> Iterator[tuple[Any, ...]]:
    """The available items, their ids first, with what the rules look at."""
    for item in available_items(features).to_pylist():
        counts = config.max_per_category or config.category_damping < 1
        category = item["category"] if counts else ""
        markets = tuple(item["markets"]) if config.markets else ()
        yield item["item_id"], category, markets, tuple(item["requires"] or ())


def run_settings(artifact: Artifact, config: NightConfig, user_keys: list[str]) -> dict[str, Any]:
    """What a run's lists depend on beside the day's state."""
    return {
        "model_version": artifact.model_version,
        "k": config.k,
        "max_history": config.max_history,
        "exclude_seen": config.exclude_seen,
        "max_per_category": config.max_per_category,
        "dislike_weight": config.dislike_weight,
        "category_damping": config.category_damping,
        "freshness_half_life_days": config.freshness_half_life_days,
        "explain_ranks": config.explain_ranks,
        "strategy": config.strategy,
        "markets": config.markets,
        "user_keys": user_keys,
    }


def make_run_id(day: str, features_fingerprint: str, settings: dict[str, Any]) -> str:
    """``<day>-<hash>``: the same inputs give the same id."""
    inputs = f"{features_fingerprint} {json.dumps(settings, sort_keys=True)}"
    return f"{day}-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}"


def score_sequences(spark: SparkSession, files: list[str], task: RankingTask) -> list[Row]:
    """Rank the users of files of sequences, a task a file; one row a file, ``SCORED_FILES``.

    The files hold users in order, so the table's files do.
    """
    work = functools.partial(score_files, task=task)
    return run_each(spark, [(file,) for file in files], "path string", work, schemas.SCORED_FILES)


def _check_files(scored: list[Row], attempt: Path, n_users: int) -> None:
    """The files that the workers tell of are the ones that are there, and nobody was passed over."""
    for path in attempt.glob(".*"):
        path.unlink()  # of a task that was killed
    told, found = {row["file"] for row in scored}, {path.name for path in attempt.glob("*.parquet")}
    n_scored = sum(row["n_users"] for row in scored)
    if told != found or n_scored != n_users:
        raise RecboleLlmError(  # the same again may succeed
            f"{len(found)} files with {n_scored} users were written to {attempt}, {len(told)} with "
            f"{n_users} were expected; score the day again"
        )


def _check_choice(catalogue: Catalogue, artifact: Artifact, k: int, day: str) -> None:
    known = set(artifact.item_ids)
    for market in catalogue.elsewhere:
        of_market = f" in the market {market!r}" if market else ""
        here = catalogue.here(market)
        n_known = sum(catalogue.items[place] in known for place in here.tolist())
        if len(here) < k:
            raise DataError(
                f"k={k}, but the catalogue of {day} has {len(here)} available items{of_market}; "
                "lower k or deliver the whole catalogue"
            )
        if n_known < k:
            _log.warning(
                "the model %s knows %d of the %d available items%s: lists are filled up with popular "
                "ones; train on this catalogue", artifact.model_version, n_known, len(here), of_market,
            )  # fmt: skip


def _check_prerequisites(catalogue: Catalogue, features: Path) -> None:
    """Warn of items that nobody can get: what they require is in no catalogue up to this one."""
    needs = catalogue.prerequisites
    known = pq.read_table(features / "items", columns=["item_id"])["item_id"]
    is_known = pc.is_in(needs.ids, value_set=known.combine_chunks()).to_numpy(zero_copy_only=False)
    lost = np.flatnonzero(~is_known[needs.wanted])
    if len(lost):
        item, wanted = catalogue.items[needs.items[lost[0]]], needs.ids[needs.wanted[lost[0]]]
        _log.warning(
            "%d available items are recommended to nobody: they require what is in no catalogue, as %r "
            "requires %r; deliver it, or correct them",
            len(np.unique(needs.items[lost])), item, wanted.as_py(),
        )  # fmt: skip


def score(job: Job) -> None:
    """Score one day, from its features to a run folder and its row in ``runs``."""
    started_at = datetime.datetime.now(datetime.UTC)
    started = time.monotonic()
    spark, config, warehouse = job.spark, job.config, job.warehouse
    prune_runs(warehouse, job.day)
    features = warehouse.features_manifest(job.day)
    artifact_path = warehouse.ranking_artifact(job.day)
    artifact = load_artifact(artifact_path)  # checked here, before any worker starts
    data_cut = artifact.metadata.get("data_cut")
    if data_cut and data_cut > job.day:
        _log.warning("the model %s has seen data up to %s, later than the day %s that it scores",
                     artifact.model_version, data_cut, job.day)  # fmt: skip

    path = warehouse.root / features["path"]
    day, half_life_days = datetime.date.fromisoformat(job.day), config.freshness_half_life_days
    freshness = Freshness(day, half_life_days) if half_life_days else None
    settings = run_settings(artifact, config, features["user_keys"])
    lists = read_list_settings(settings)
    base = find_run_to_carry(job, artifact, features)
    catalogue = read_catalogue(path, config.markets, freshness, lists.strategy.uses(RECENT))
    _check_choice(catalogue, artifact, config.k, job.day)
    _check_prerequisites(catalogue, path)
    run_id = make_run_id(job.day, features["fingerprint"], settings)
    attempt = new_attempt(warehouse.runs(job.day) / f"run_id={run_id}")
    attempt.mkdir(parents=True)
    task = RankingTask(
        artifact=str(artifact_path),
        output=str(attempt),
        day=day,
        run_id=run_id,
        model_version=artifact.model_version,
        k=config.k,
        settings=lists,
        users_per_batch=config.users_per_batch,
        # The instant the table describes, the end of its day: a rerun gives the same rows.
        generated_at=datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)
        + datetime.timedelta(days=1),
        catalogue=spark.sparkContext.broadcast(catalogue),
        base=spark.sparkContext.broadcast(base),
    )
    files = sorted(str(file) for file in (path / "sequences").glob("*.parquet"))
    scored = score_sequences(spark, files, task)
    _check_files(scored, attempt, features["n_users"])
    n_carried = sum(row["n_carried_users"] for row in scored)
    if n_short := sum(row["n_short_users"] for row in scored):
        _log.warning(
            "%d of %d users get no list: fewer than k=%d items are left for them, others are hidden or "
            "require what they have not met", n_short, features["n_users"], config.k,
        )  # fmt: skip
    seconds = round(time.monotonic() - started, 1)
    replace_json(
        warehouse.runs(job.day) / "scored.json",
        {
            "ds": job.day,
            "run_id": run_id,
            "attempt": attempt.name,
            "path": str(attempt.relative_to(warehouse.root)),
            "features_path": features["path"],
            "model_version": artifact.model_version,
            "model_data_cut": data_cut,
            "settings": settings,
            "k": config.k,
            "raw_rows": features["raw_rows"],
            "accepted_rows": features["accepted_rows"],
            "late_rows": features["late_rows"],
            "quarantined_rows": features["quarantined_rows"],
            "duplicate_rows": features["duplicate_rows"],
            "n_users": features["n_users"],
            "n_items": features["n_items"],
            "n_unknown_items": sum(row["n_unknown_items"] for row in scored),
            "n_carried_users": n_carried,
            "carried_from": str(Path(base.table).relative_to(warehouse.root)) if base else None,
            "features_seconds": features["seconds"],
            "score_seconds": seconds,
            "started_at": started_at.isoformat(timespec="seconds"),
        },
    )
    _log.info(
        "scored %s: %d users x %d items by model %s (%d carried over), run %s, %.1f s",
        job.day, features["n_users"], config.k, artifact.model_version, n_carried, run_id, seconds,
    )  # fmt: skip


def main(argv: list[str]) -> int:
    """Entry point; see ``run_job`` for flags and exit codes."""
    return run_job("score_users", score, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
