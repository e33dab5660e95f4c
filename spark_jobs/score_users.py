"""Score a day: rank items for every active user on Spark's workers and write a run folder.

A run's id is a hash of what it was made from (day, features, model, settings), so a repeated night
has the same id and the same rows. Nothing is visible to readers until ``publish`` names it.
"""

import datetime
import functools
import hashlib
import logging
import sys
import time

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from recbole_llm.errors import DataError
from recbole_llm.scoring import Artifact, load_artifact
from recbole_llm.warehouse import new_attempt, replace_json
from spark_jobs import schemas
from spark_jobs.config import NightConfig
from spark_jobs.job import Job, run_job
from spark_jobs.ranking import Catalogue, RankingTask, rank_batches

_log = logging.getLogger(__name__)


def score_sequences(sequences: DataFrame, task: RankingTask, partitions: int) -> DataFrame:
    """Rank items for each row of ``sequences``; schema ``RECOMMENDATIONS``, sorted by user.

    The input is brought in order, not the output: sorting the output would rank everybody twice,
    once to find the sort's borders.
    """
    in_order = (
        sequences.select("user_id", "item_ids")
        .repartitionByRange(partitions, "user_id")
        .sortWithinPartitions("user_id")
    )
    return in_order.mapInArrow(functools.partial(rank_batches, task=task), schemas.RECOMMENDATIONS)


def read_catalogue(items: DataFrame, n_popular: int) -> Catalogue:
    """Take the day's items to the driver, to be broadcast.

    Args:
        items: schema ``ITEMS``.
        n_popular: how many popular items to keep.
    """
    rows = (
        items.orderBy(f.col("n_events").desc(), "item_id").select("item_id", "n_events").collect()
    )
    total = sum(row["n_events"] for row in rows) or 1
    return Catalogue(
        eligible=[row["item_id"] for row in rows],
        popular=[(row["item_id"], row["n_events"] / total) for row in rows[:n_popular]],
    )


def make_run_id(
    day: str, features_fingerprint: str, artifact: Artifact, config: NightConfig
) -> str:
    """``<day>-<hash>``: the same inputs give the same id."""
    inputs = f"{features_fingerprint} {artifact.model_version} {config.k} {config.exclude_seen}"
    return f"{day}-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}"


def score(job: Job) -> None:
    """Score one day, from its features to a run folder and its row in ``runs``."""
    started_at = datetime.datetime.now(datetime.UTC)
    started = time.monotonic()
    spark, config, warehouse = job.spark, job.config, job.warehouse
    features = warehouse.features_manifest(job.day)
    artifact_path = warehouse.champion_artifact()
    artifact = load_artifact(artifact_path)  # checked here, before any worker starts
    data_cut = artifact.metadata.get("data_cut")
    if data_cut and data_cut > job.day:
        _log.warning("the model %s has seen data up to %s, later than the day %s that it scores",
                     artifact.model_version, data_cut, job.day)  # fmt: skip

    path = warehouse.root / features["path"]
    sequences = spark.read.parquet(str(path / "sequences"))
    catalogue = read_catalogue(
        spark.read.parquet(str(path / "items")), n_popular=config.k + config.max_history
    )
    n_rankable = len(set(artifact.item_ids) & set(catalogue.eligible))
    if n_rankable < config.k:
        raise DataError(
            f"k={config.k}, but the model {artifact.model_version} knows {n_rankable} of the "
            f"{len(catalogue.eligible)} items in the catalogue of {job.day}; train on this "
            "catalogue or lower k"
        )
    run_id = make_run_id(job.day, features["fingerprint"], artifact, config)
    day = datetime.date.fromisoformat(job.day)
    task = RankingTask(
        artifact=str(artifact_path),
        day=day,
        run_id=run_id,
        model_version=artifact.model_version,
        k=config.k,
        exclude_seen=config.exclude_seen,
        # The instant the table describes, the end of its day: a rerun gives the same rows.
        generated_at=datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)
        + datetime.timedelta(days=1),
        catalogue=spark.sparkContext.broadcast(catalogue),
    )
    attempt = new_attempt(warehouse.runs(job.day) / f"run_id={run_id}")
    score_sequences(sequences, task, config.partitions).write.parquet(str(attempt))

    known = spark.createDataFrame([(item,) for item in artifact.item_ids], "item_id string")
    met = sequences.select(f.explode("item_ids").alias("item_id"))
    n_unknown = met.join(known, on="item_id", how="left_anti").count()
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
            "k": config.k,
            "raw_rows": features["raw_rows"],
            "accepted_rows": features["accepted_rows"],
            "quarantined_rows": features["quarantined_rows"],
            "duplicate_rows": features["duplicate_rows"],
            "n_users": features["n_users"],
            "n_items": features["n_items"],
            "n_unknown_items": n_unknown,
            "features_seconds": features["seconds"],
            "score_seconds": seconds,
            "started_at": started_at.isoformat(timespec="seconds"),
        },
    )
    _log.info(
        "scored %s: %d users x %d items by model %s, %d history items unknown to it, run %s, %.1f s",
        job.day, features["n_users"], config.k, artifact.model_version, n_unknown, run_id, seconds,
    )  # fmt: skip


def main(argv: list[str]) -> int:
    """Entry point; see ``run_job`` for flags and exit codes."""
    return run_job("score_users", score, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
