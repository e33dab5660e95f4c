"""The first half of a night: the day's events become features."""

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable
from night_jobs import DAY_FORMAT, DAY_PARAM, DEFAULT_ARGS, FEATURES, spark_job

with DAG(
    dag_id="nightly_features",
    # At 02:00 the day before is complete: it is the partition.
    schedule=CronPartitionTimetable(
        "0 2 * * *", timezone="UTC", run_offset=-1, key_format=DAY_FORMAT
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params=DAY_PARAM,
    tags=["nightly", "spark"],
    doc_md="""\
### Features of a day

Reads the day's events, sets malformed ones aside and extends every user's sequence. The partition
key is the day, `YYYY-MM-DD`. When it is done, the asset `features` starts `nightly_recommendations`
for the same day.

A rerun replaces its own day only. To repeat many days, backfill this DAG; the next one follows.
""",
):
    spark_job("prepare_features", timeout=timedelta(hours=2), outlets=[FEATURES])
