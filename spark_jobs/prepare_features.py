"""A day's features: clean what was delivered, set aside what is wrong, extend the state of before.

Reads the newest state that may be extended and the raw days since then (yesterday's and one day, as
a rule; without one, all days), and writes ``features/ds=D``. Every raw row that it reads is
accepted, quarantined with a reason, or counted as a duplicate; the job checks that the three add up
from what it wrote.
"""

import datetime
import logging
import sys
import time
from itertools import chain
from pathlib import Path
from shutil import rmtree
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from recbole_llm.blocks import read_blocks
from recbole_llm.errors import DataError, UnavailableError
from recbole_llm.lists.catalogue import TRENDING
from recbole_llm.lists.strategy import RECENT, read_strategy
from recbole_llm.raw_files import data_files, raw_digests
from recbole_llm.warehouse import new_attempt, replace_json
from spark_jobs import schemas
from spark_jobs.attempts import prune_features, prune_states
from spark_jobs.cleaning import check_events, check_items
from spark_jobs.job import Job, run_job
from spark_jobs.lineage import find_base, state_settings
from spark_jobs.opinions import find_wishes, merge_opinions
from spark_jobs.pseudonyms import key_names, keys_before
from spark_jobs.raw_events import catalogue_files, event_files, naming_broken_files, read_raw
from spark_jobs.screening import screened
from spark_jobs.state import (
    State,
    count_events,
    empty_state,
    extend_sequences,
    find_arrivals,
    keep_recent,
    merge_items,
    read_state,
    renew_state,
    summarise,
    trending,
    write_state,
)

_log = logging.getLogger(__name__)
_CHECKED = "_checked"


def prepare(job: Job) -> None:
    """Prepare one day, from the raw files to the manifest."""
    started = time.monotonic()
    spark, config, warehouse = job.spark, job.config, job.warehouse
    prune_features(warehouse, job.day)  # but the one that a night upon this day may be reading
    user_keys = key_names(config)
    base = find_base(warehouse, job.day, config, user_keys)
    since = base["ds"] if base else None
    # Taken before anything is read: a file that comes meanwhile makes the next night read the day anew.
    sources = raw_digests(warehouse, since, job.day)
    files = event_files(warehouse.raw_events, since, job.day)
    new_since = datetime.date.fromisoformat(min(files))
    first_ds = datetime.date.fromisoformat(base["first_ds"]) if base else new_since
    before = empty_state(spark)
    if base:
        then = read_state(spark, warehouse.root / base["path"])
        before = renew_state(then, keys_before(user_keys, base["user_keys"]))
    _log.info("features %s: %d days of raw events upon %s", job.day, len(files),
              f"the state of {since}" if since else "nothing")  # fmt: skip
    catalogues = catalogue_files(warehouse.raw_items, since, job.day)
    event_list, item_list = (list(chain(*each.values())) for each in (files, catalogues))
    raw = read_raw(
        spark,
        event_list,
        schemas.EVENT_COLUMNS,
        schemas.REQUIRED_EVENT_COLUMNS,
        config.event_fields,
    )
    raw_items = read_raw(
        spark, item_list, schemas.RAW_ITEM_COLUMNS, ("item_id",), config.item_fields
    ).withColumn("ds", f.coalesce("ds", f.lit(job.day)))
    checked_items = check_items(raw_items, config.phone_regions).persist()
    good_items = checked_items.where(f.col("reason").isNull())
    is_dated = not data_files(warehouse.raw_items)  # else it is of every day that is read
    items = merge_items(
        before.items, good_items, list(catalogues), None if base and is_dated else new_since
    ).persist()
    attempt = new_attempt(warehouse.features(job.day))
    # Written, not persisted: what is derived from it outlives a lost executor and plans in no time.
    with naming_broken_files([*event_list, *item_list]):  # this reads all of them
        checked = check_events(raw, items, first_ds, config, read_blocks(warehouse))
        checked.write.parquet(str(attempt / _CHECKED))
    events = spark.read.schema(schemas.CHECKED_EVENTS).parquet(str(attempt / _CHECKED))
    arrivals = find_arrivals(events, before.recent, first_ds).persist()
    opinions = merge_opinions(before.opinions, arrivals).persist()
    wishes = find_wishes(opinions, items)

    day = datetime.date.fromisoformat(job.day)
    after = State(
        extend_sequences(before.sequences, arrivals, events, wishes, config.max_history),
        count_events(items, arrivals),
        opinions,
        keep_recent(before.recent, arrivals, day, config.max_late_days),
    )
    write_state(after, attempt, config.partitions)
    strategy = read_strategy(config.strategy)
    if strategy.uses(RECENT):
        written = spark.read.schema(schemas.SEQUENCES).parquet(str(attempt / "sequences"))
        trending(written, day, strategy.recent_days).write.parquet(str(attempt / TRENDING))
    rejected = [
        frame.where(f.col("reason").isNotNull()).select(
            f.lit(day).alias("ds"),
            f.lit(source).alias("source"),
            "reason",
            screened(f.col("raw"), []).alias("raw"),
        )
        for source, frame in (("events", events), ("items", checked_items))
    ]
    quarantine = rejected[0].unionByName(rejected[1]).coalesce(config.partitions)
    quarantine.write.parquet(str(attempt / "quarantine"))

    # The raw files are counted by themselves, so that the audit sees rows that the checks lose.
    raw_rows, late_rows = raw.count(), arrivals.where("is_late").count()
    screened_items = checked_items.where("is_screened").count()
    for frame in (checked_items, items, arrivals, opinions):
        frame.unpersist()
    rmtree(attempt / _CHECKED)
    manifest = {
        "ds": job.day,
        "attempt": attempt.name,
        "path": str(attempt.relative_to(warehouse.root)),
        "first_ds": first_ds.isoformat(),
        "base": {"ds": base["ds"], "fingerprint": base["fingerprint"]} if base else None,
        "settings": state_settings(config),
        "user_keys": user_keys,
        "sources": sources,
        **_audit_counts(job, attempt, raw_rows, base, sources),
        "late_rows": late_rows,
        "screened_items": screened_items,
        "seconds": round(time.monotonic() - started, 1),
    }
    replace_json(warehouse.features(job.day) / "manifest.json", manifest)
    prune_states(warehouse, job.day, config.keep_days)
    _log.info(
        "features %s: %d raw rows = %d accepted (%d late) + %d quarantined + %d duplicates; "
        "%d users, %d items, %.1f s",
        job.day, raw_rows, manifest["accepted_rows"], late_rows, manifest["quarantined_rows"],
        manifest["duplicate_rows"], manifest["n_users"], manifest["n_items"], manifest["seconds"],
    )  # fmt: skip


def _audit_counts(
    job: Job, attempt: Path, raw_rows: int, base: dict[str, Any] | None, sources: dict[str, str]
) -> dict[str, Any]:
    """Count what was written and hold it against what was read.

    Raises:
        DataError: rows are missing or were made, or no user is left.
        UnavailableError: they are, for raw files became others meanwhile.
    """
    state = read_state(job.spark, attempt)
    users = summarise(
        state.sequences,
        n_users=f.count("*"),
        events=f.sum("n_events"),
        copies=f.sum("n_duplicates"),
    )
    items = summarise(state.items, n_items=f.count("*"), n_available_items=f.count_if("available"))
    others = [summarise(table) for table in (state.opinions, state.recent)]
    total_events, total_duplicates = users["events"], users["copies"]
    accepted = total_events - (base["total_events"] if base else 0)
    duplicates = total_duplicates - (base["total_duplicates"] if base else 0)
    reasons = _count_reasons(
        job.spark.read.schema(schemas.QUARANTINE).parquet(str(attempt / "quarantine"))
    )
    quarantined = sum(count for (source, _), count in reasons.items() if source == "events")
    if raw_rows != accepted + quarantined + duplicates:
        if raw_digests(job.warehouse, base["ds"] if base else None, job.day) != sources:
            raise UnavailableError(
                f"raw files up to {job.day} changed while they were read; try again when they do not"
            )
        raise DataError(
            f"rows do not add up for {job.day}: {raw_rows} raw, but {accepted} accepted + "
            f"{quarantined} quarantined + {duplicates} duplicates; the features were not published"
        )
    if total_events == 0:
        raise DataError(
            f"no usable event up to {job.day}: {quarantined} of {raw_rows} rows were quarantined, "
            f"by reason: {reasons}"
        )
    return {
        "raw_rows": raw_rows,
        "accepted_rows": accepted,
        "quarantined_rows": quarantined,
        "duplicate_rows": duplicates,
        "quarantined_items": sum(reasons.values()) - quarantined,
        "reasons": {f"{source}.{reason}": n for (source, reason), n in sorted(reasons.items())},
        "total_events": total_events,
        "total_duplicates": total_duplicates,
        "n_users": users["n_users"],
        "n_items": items["n_items"],
        "n_available_items": items["n_available_items"],
        "fingerprint": "".join(f"{table['fingerprint']:016x}" for table in (users, items, *others)),
    }


def _count_reasons(quarantine: DataFrame) -> dict[tuple[str, str], int]:
    counts = quarantine.groupBy("source", "reason").count().collect()
    return {(row["source"], row["reason"]): int(row["count"]) for row in counts}


def main(argv: list[str]) -> int:
    """Entry point; see ``run_job`` for flags and exit codes."""
    return run_job("prepare_features", prepare, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
