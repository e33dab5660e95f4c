"""Once a week: train a model on the newest features."""

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable
from night_jobs import DAY_FORMAT, DAY_PARAM, DEFAULT_ARGS, train_job

with DAG(
    dag_id="weekly_training",
    # Monday 04:00 UTC, told in a zone five hours behind so that the key is the Sunday, whose
    # features were prepared at 02:00. An offset of -1 would go back a whole week.
    schedule=CronPartitionTimetable("0 23 * * 0", timezone="Etc/GMT+5", key_format=DAY_FORMAT),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params=DAY_PARAM,
    tags=["weekly", "training"],
    doc_md="""\
### Training

Trains a model on the features of the partition's day, a Sunday. It fails without a retry where
`nightly_features` has not prepared that day.
""",
):
    train_job("train", timeout=timedelta(hours=12))
