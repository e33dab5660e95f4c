"""The second half of a night: every user gets a list, and the day's table is published."""

from datetime import timedelta

from airflow.sdk import DAG, PartitionedAssetTimetable
from night_jobs import (
    DAY_PARAM,
    DEFAULT_ARGS,
    FEATURES,
    METRICS,
    RECOMMENDATIONS,
    spark_job,
    tell_report,
    train_job,
)

with DAG(
    dag_id="nightly_recommendations",
    schedule=PartitionedAssetTimetable(assets=FEATURES),
    # Airflow cannot backfill an asset-triggered DAG: backfill nightly_features.
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params=DAY_PARAM,
    tags=["nightly", "spark"],
    doc_md="""\
### Recommendations of a day

Starts when `nightly_features` has finished a day; the partition key is that day.

- `ensure_champion` trains a model where none exists yet, and otherwise returns at once.
- `score_users` ranks items for every user.
- `publish` audits the written table and only then points readers to it. A failed audit ends the
  task without a retry, and the table that was published before stands.
- `measure_night` holds the table of before against the day's events and writes the night's report;
  its path is in the event of the asset `metrics_daily`. Where it alone fails, the run is red and the
  day's table is published all the same: clear this task to measure again.
""",
):
    (
        train_job("ensure_champion", timeout=timedelta(hours=12), if_none=True)
        >> spark_job("score_users", timeout=timedelta(hours=4))
        >> spark_job("publish", timeout=timedelta(hours=1), outlets=[RECOMMENDATIONS])
        >> spark_job(
            "measure_night",
            timeout=timedelta(hours=1),
            outlets=[METRICS],
            post_execute=tell_report,
        )
    )
