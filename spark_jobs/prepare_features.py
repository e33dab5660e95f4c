"""A day's features: clean events and catalogue, quarantine what is wrong, write user sequences.

Reads the raw events of all days up to D and the catalogue; writes ``features/ds=D``. Every raw row
is accepted, quarantined with a reason, or counted as a duplicate; the job checks that the three add
up from what it wrote.
"""

import datetime
import logging
import sys
import time
from functools import reduce
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as f

from recbole_llm.errors import DataError
from recbole_llm.warehouse import new_attempt, prune_attempts, replace_json
from spark_jobs import schemas
from spark_jobs.job import Job, run_job
from spark_jobs.raw_events import MALFORMED, catalogue_files, event_files, read_raw

_log = logging.getLogger(__name__)
UNKNOWN_ITEM = "unknown_item"


def check_events(
    raw: DataFrame,
    items: DataFrame,
    day: datetime.date,
    first_day: datetime.date,
    event_types: list[str],
) -> DataFrame:
    """Type each event and say what is wrong with it.

    Args:
        raw: string columns ``EVENT_COLUMNS`` and ``malformed``, one row a record.
        items: the clean catalogue, unique in ``item_id``.
        day: the last day an event may lie in, UTC.
        first_day: the first one.
    Returns:
        ``user_id``, ``item_id``, ``timestamp`` (bigint, Unix seconds), ``reason`` (null when the
        row is good, else the first fault found) and ``raw`` (the record as JSON).
    """
    as_seconds = f.coalesce(
        f.col("timestamp").try_cast("double").try_cast("bigint"),
        f.unix_seconds(f.try_to_timestamp(f.col("timestamp"))),
    )
    from_s = _midnight(first_day)
    until_s = _midnight(day + datetime.timedelta(days=1))
    rating = f.col("rating").try_cast("double")
    event_type = f.coalesce(f.col("event_type"), f.lit("view"))
    faults: list[tuple[Column, str]] = [
        (f.col(MALFORMED).isNotNull(), "malformed_record"),
        (f.coalesce(f.trim("user_id"), f.lit("")) == "", "missing_user_id"),
        (f.coalesce(f.trim("item_id"), f.lit("")) == "", "missing_item_id"),
        (as_seconds.isNull(), "bad_timestamp"),
        ((as_seconds < from_s) | (as_seconds >= until_s), "timestamp_outside_calendar"),
        (~event_type.isin(event_types), "unknown_event_type"),
        (f.col("rating").isNotNull() & (rating.isNull() | f.isnan(rating)), "bad_rating"),
        (f.col("is_known").isNull(), UNKNOWN_ITEM),
    ]
    # The catalogue is unique in item_id, so the join keeps the number of events.
    known = items.select(f.col("item_id").alias("known_id"), f.lit(True).alias("is_known"))
    joined = raw.join(known, f.trim("item_id") == f.col("known_id"), how="left")
    return joined.select(
        f.trim("user_id").alias("user_id"),
        f.trim("item_id").alias("item_id"),
        as_seconds.alias("timestamp"),
        first_fault(faults).alias("reason"),
        f.coalesce(
            f.col(MALFORMED), f.to_json(f.struct(*schemas.EVENT_COLUMNS))
        ).alias("raw"),
    )  # fmt: skip


def first_fault(faults: list[tuple[Column, str]]) -> Column:
    """The reason of the first condition that holds; null when none does."""
    return reduce(
        lambda later, fault: f.when(fault[0], f.lit(fault[1])).otherwise(later),
        reversed(faults),
        f.lit(None).cast("string"),
    )


def check_items(raw: DataFrame) -> DataFrame:
    """Type the catalogue and say what is wrong with a row.

    Returns:
        ``ITEM_COLUMNS``, ``reason`` and ``raw``. Of rows with one id the first by its text is kept,
        the others are ``duplicate_item``.
    """
    text = f.to_json(f.struct(*schemas.ITEM_COLUMNS))
    rows = raw.select(
        f.trim("item_id").alias("item_id"),
        *(f.trim(f.coalesce(name, f.lit(""))).alias(name) for name in schemas.ITEM_COLUMNS[1:]),
        f.coalesce(f.col(MALFORMED), text).alias("raw"),
        first_fault(
            [
                (f.col(MALFORMED).isNotNull(), "malformed_record"),
                (f.coalesce(f.trim("item_id"), f.lit("")) == "", "missing_item_id"),
            ]
        ).alias("reason"),
    )
    copies = Window.partitionBy("item_id", "reason").orderBy("raw")
    is_copy = f.col("reason").isNull() & (f.row_number().over(copies) > 1)
    return rows.withColumn("reason", f.when(is_copy, "duplicate_item").otherwise(f.col("reason")))


def build_sequences(events: DataFrame, max_history: int) -> DataFrame:
    """One row a user: what they met, oldest first.

    A repeated (user, item, timestamp) counts once and is a duplicate. A user whose only well-formed
    events name unknown items has an empty sequence, so that they get a recommendation too.

    Args:
        events: from ``check_events``.
        max_history: newest items kept.
    Returns:
        Schema ``SEQUENCES``.
    """
    accepted = (
        events.where(f.col("reason").isNull())
        .groupBy("user_id", "item_id", "timestamp")
        .agg(f.count("*").alias("copies"))
        .groupBy("user_id")
        .agg(
            # Sorted by (timestamp, item_id): ties are broken alike in every run.
            f.sort_array(f.collect_list(f.struct("timestamp", "item_id"))).alias("history"),
            f.count("*").alias("n_events"),
            f.sum(f.col("copies") - 1).alias("n_duplicates"),
        )
    )
    only_unknown = events.where(f.col("reason") == UNKNOWN_ITEM).select("user_id").distinct()
    recent = f.slice("history", -f.least(f.size("history"), f.lit(max_history)), max_history)
    joined = accepted.join(only_unknown, on="user_id", how="full").withColumn(
        "history", f.when(f.col("history").isNotNull(), recent)
    )
    empty_ids = f.array().cast("array<string>")
    return joined.select(
        "user_id",
        f.coalesce(f.col("history.item_id"), empty_ids).alias("item_ids"),
        f.coalesce(f.col("history.timestamp"), f.array().cast("array<bigint>")).alias("timestamps"),
        f.coalesce("n_events", f.lit(0)).cast("bigint").alias("n_events"),
        f.coalesce("n_duplicates", f.lit(0)).cast("bigint").alias("n_duplicates"),
    )


def build_items(items: DataFrame, events: DataFrame) -> DataFrame:
    """The catalogue with each item's number of accepted rows; schema ``ITEMS``."""
    popularity = (
        events.where(f.col("reason").isNull())
        .groupBy("item_id")
        .agg(f.count("*").alias("n_events"))
    )
    return items.join(popularity, on="item_id", how="left").select(
        *schemas.ITEM_COLUMNS, f.coalesce("n_events", f.lit(0)).cast("bigint").alias("n_events")
    )


def fingerprint(frame: DataFrame) -> str:
    """A hash of a frame's rows that does not depend on their order."""
    total = frame.select(f.sum(f.xxhash64(*frame.columns).cast("decimal(38,0)"))).first()
    assert total is not None
    return f"{int(total[0] or 0) % (1 << 64):016x}"


def prepare(job: Job) -> None:
    """Prepare one day, from the raw files to the manifest."""
    started = time.monotonic()
    spark, config, warehouse = job.spark, job.config, job.warehouse
    day = datetime.date.fromisoformat(job.day)
    files = event_files(warehouse.raw_events, job.day)
    # Persisted and counted by itself, so that the audit would see rows that the checks below lose.
    raw = read_raw(spark, files, schemas.EVENT_COLUMNS, schemas.REQUIRED_EVENT_COLUMNS).persist()
    raw_items = read_raw(
        spark, catalogue_files(warehouse.raw_items), schemas.ITEM_COLUMNS, ("item_id",)
    )
    checked_items = check_items(raw_items).persist()
    clean_items = checked_items.where(f.col("reason").isNull()).select(*schemas.ITEM_COLUMNS)
    # Persisted: three outputs are derived from it, and the raw files are read once.
    events = check_events(raw, clean_items, day, config.first_day, config.event_types).persist()

    attempt = new_attempt(warehouse.features(job.day))
    by_user = build_sequences(events, config.max_history).repartitionByRange(
        config.partitions, "user_id"
    )
    by_user.sortWithinPartitions("user_id").write.parquet(str(attempt / "sequences"))
    by_item = build_items(clean_items, events).coalesce(1)
    by_item.sortWithinPartitions("item_id").write.parquet(str(attempt / "items"))
    rejected = [
        frame.where(f.col("reason").isNotNull()).select(
            f.lit(day).alias("ds"), f.lit(source).alias("source"), "reason", "raw"
        )
        for source, frame in (("events", events), ("items", checked_items))
    ]
    rejected[0].unionByName(rejected[1]).coalesce(1).write.parquet(str(attempt / "quarantine"))

    raw_rows = raw.count()
    manifest = _audit_counts(job, attempt, raw_rows)
    manifest["seconds"] = round(time.monotonic() - started, 1)
    keep = {attempt.name, *_attempts_in_use(job)}
    replace_json(warehouse.features(job.day) / "manifest.json", manifest)
    prune_attempts(warehouse.features(job.day), keep)
    _log.info(
        "features %s: %d raw rows = %d accepted + %d quarantined + %d duplicates; %d users, "
        "%d items, %.1f s",
        job.day, raw_rows, manifest["accepted_rows"], manifest["quarantined_rows"],
        manifest["duplicate_rows"], manifest["n_users"], manifest["n_items"], manifest["seconds"],
    )  # fmt: skip


def _attempts_in_use(job: Job) -> set[str]:
    """The attempt that a scoring job may be reading, and the one behind the published table."""
    used = set()
    if (job.warehouse.features(job.day) / "manifest.json").exists():
        used.add(job.warehouse.features_manifest(job.day)["attempt"])
    if job.day in job.warehouse.published_days():
        used.add(Path(job.warehouse.published_run(job.day)["features_path"]).name)
    return used


def _audit_counts(job: Job, attempt: Path, raw_rows: int) -> dict[str, Any]:
    """Count what was written and hold it against what was read.

    Raises:
        DataError: rows are missing or were made, or no user is left.
    """
    sequences = job.spark.read.parquet(str(attempt / "sequences"))
    items = job.spark.read.parquet(str(attempt / "items"))
    quarantine = job.spark.read.parquet(str(attempt / "quarantine"))
    users = sequences.agg(f.count("*"), f.sum("n_events"), f.sum("n_duplicates")).first()
    assert users is not None
    n_users, accepted, duplicates = (int(value or 0) for value in users)
    reasons = {
        (row["source"], row["reason"]): int(row["count"])
        for row in quarantine.groupBy("source", "reason").count().collect()
    }
    quarantined = sum(count for (source, _), count in reasons.items() if source == "events")
    if raw_rows != accepted + quarantined + duplicates:
        raise DataError(
            f"rows do not add up for {job.day}: {raw_rows} raw, but {accepted} accepted + "
            f"{quarantined} quarantined + {duplicates} duplicates; the features were not published"
        )
    if accepted == 0:
        raise DataError(
            f"no usable event up to {job.day}: {quarantined} of {raw_rows} rows were quarantined, "
            f"by reason: {reasons}"
        )
    return {
        "ds": job.day,
        "attempt": attempt.name,
        "path": str(attempt.relative_to(job.warehouse.root)),
        "raw_rows": raw_rows,
        "accepted_rows": accepted,
        "quarantined_rows": quarantined,
        "duplicate_rows": duplicates,
        "quarantined_items": sum(reasons.values()) - quarantined,
        "reasons": {f"{source}.{reason}": n for (source, reason), n in sorted(reasons.items())},
        "n_users": n_users,
        "n_items": items.count(),
        "fingerprint": fingerprint(sequences) + fingerprint(items),
    }


def _midnight(day: datetime.date) -> int:
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())


def main(argv: list[str]) -> int:
    """Entry point; see ``run_job`` for flags and exit codes."""
    return run_job("prepare_features", prepare, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
