"""Once a day: what is older than its days goes, from the warehouse and from the sinks."""

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable
from night_jobs import DAY_FORMAT, DAY_PARAM, DEFAULT_ARGS, due_after, expire_job, sync_job

with DAG(
    dag_id="retention",
    dag_display_name="Day: delete what is past its days",
    description="Raw events, rejected rows, tables and figures go after their days.",
    # 12:00 UTC, told in a zone twelve hours behind: the key is the day that it is.
    schedule=CronPartitionTimetable("0 0 * * *", timezone="Etc/GMT+12", key_format=DAY_FORMAT),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    deadline=due_after(hours=6),
    params=DAY_PARAM,
    tags=["daily", "privacy"],
    doc_md="""\
### Retention

Deletes what is older than `retention` of the settings says for its kind, counted back from the
partition's day: raw events, rejected rows, tables with their files, figures with their reports. The
newest published day stays. Then the sinks withdraw the days whose tables went. States go by
`keep_days`, with each night. It is harmless to run it again.
""",
):
    expire_job(
        "expire",
        timeout=timedelta(hours=2),
        pool="one_machine",
        doc_md="Runs while no Spark job does, for a job must not read what is being deleted.",
    ) >> sync_job(
        "sync_all_days",
        timeout=timedelta(hours=2),
        all_days=True,
        doc_md="Lets PostgreSQL and Delta hold the published days alone; idle without sinks.",
    )
