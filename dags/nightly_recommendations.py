"""The second half of a night: every user gets a list, and the day's table is published."""

from datetime import timedelta

from airflow.sdk import DAG, PartitionedAssetTimetable
from night_jobs import (
    DAY_PARAM,
    DEFAULT_ARGS,
    FEATURES,
    METRICS,
    RECOMMENDATIONS,
    due_after,
    spark_job,
    sync_job,
    tell_report,
    train_job,
)

with DAG(
    dag_id="nightly_recommendations",
    dag_display_name="Night 2: recommendations of a day",
    description="Every user gets a ranked list; the day's table is audited and published.",
    schedule=PartitionedAssetTimetable(assets=FEATURES),
    # Airflow cannot backfill an asset-triggered DAG: backfill nightly_features.
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    deadline=due_after(hours=6),
    params=DAY_PARAM,
    tags=["nightly", "spark"],
    doc_md="""\
### Recommendations of a day

Starts when `nightly_features` has finished a day; the partition key is that day.

- `ensure_champion` trains a model where none exists yet, and otherwise lets the one that is there read
  the texts of the day's new items, so that they are ranked on their first day.
- `score_users` ranks items for every user.
- `publish` audits the written table and only then points readers to it. A failed audit ends the
  task without a retry, and the table that was published before stands.
- `sync_sinks` copies the published table to the settings' `sinks`, where there are any.
- `measure_night` holds the table of before against the day's events and writes the night's report;
  its path is in the event of the asset `metrics_daily`. Where one of these two fails, the run is red
  and the day's table is published all the same: clear that task to do it again.

A run that is not finished six hours after it was queued raises an alert, as does a task that failed
for good.
""",
):
    (
        train_job(
            "ensure_champion",
            timeout=timedelta(hours=12),
            more="--if-none",
            doc_md="""\
Trains the first model on the day's features. Where `artifacts/champion.json` names a model, it checks
that the model can be read, and reads the day's new items: a copy of the model that knows them ranks the
day, and `features/ds=<day>/model.json` names it.
""",
        )
        >> spark_job(
            "score_users",
            timeout=timedelta(hours=4),
            doc_md="""\
Ranks with the champion for each user of the day's `sequences`, and writes a folder of its own below
`runs/ds=<day>`. Users whose history, model and choice did not change keep the list of the last
published day. Nothing that readers see changes.
""",
        )
        >> spark_job(
            "publish",
            timeout=timedelta(hours=1),
            outlets=[RECOMMENDATIONS],
            doc_md="""\
Audits the files that `score_users` wrote: ranks, scores, repeats, seen and unavailable items, every
user present, size against the day before. Then `published.json` names them, in one step. Exit code 6:
the audit failed; its numbers stand in the table `runs`. `recbole-llm rollback --day <day>` goes back.
""",
        )
        >> [
            sync_job(
                "sync_sinks",
                timeout=timedelta(hours=2),
                doc_md="""\
Loads the day's published run into PostgreSQL or Delta, each day in one step; a run that is loaded
already is left alone. Without `sinks` in the settings it returns at once.
""",
            ),
            spark_job(
                "measure_night",
                timeout=timedelta(hours=1),
                outlets=[METRICS],
                post_execute=tell_report,
                doc_md="""\
Measures the day's table, and the one before by what its users did on the day: a row of the table
`metrics_daily` and the page `reports/ds=<day>/index.html`. A figure outside its band is a warning.
""",
            ),
        ]
    )
