"""The first half of a night: the day's events become features."""

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable
from night_jobs import DAY_FORMAT, DAY_PARAM, DEFAULT_ARGS, FEATURES, due_after, spark_job

with DAG(
    dag_id="nightly_features",
    dag_display_name="Night 1: features of a day",
    description="Raw events of a day become every user's sequence; starts Night 2.",
    # At 02:00 UTC the day before is complete: it is the partition. The hour is told as midnight of a
    # zone two hours behind, so that a partition's own instant is the midnight of its day: a backfill
    # from one date to another then has both, and finds the runs that were triggered by key.
    schedule=CronPartitionTimetable(
        "0 0 * * *", timezone="Etc/GMT+2", run_offset=-1, key_format=DAY_FORMAT
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    deadline=due_after(hours=3),
    params=DAY_PARAM,
    tags=["nightly", "spark"],
    doc_md="""\
### Features of a day

Reads the day's events, sets malformed ones aside and extends every user's sequence. The partition
key is the day, `YYYY-MM-DD`; the trigger form has it as *Day*. When it is done, the asset `features`
starts `nightly_recommendations` for the same day.

A rerun replaces its own day only. To repeat many days, backfill this DAG with one active run at a
time; the next DAG follows each day.

A run that is not finished three hours after it was queued raises an alert, and so does a task that
failed for good: a line in `alerts.jsonl` of the warehouse, and a post to the connection `night_alerts`
where there is one.
""",
):
    spark_job(
        "prepare_features",
        timeout=timedelta(hours=2),
        outlets=[FEATURES],
        doc_md="""\
Reads `raw/events/ds=<day>` and the state of the day before; writes
`features/ds=<day>/…/{sequences,items,recent,quarantine}`. The rows read must equal those accepted,
quarantined and dropped as duplicates, or the task fails and the features of before stand.

Exit code 2: bad settings. 3: no usable events, or rows that do not add up. 4: the day was not
delivered. None of them is tried again; fix the cause and clear the task.
""",
    )
