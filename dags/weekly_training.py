"""Once a week: train a challenger on the newest features and let it meet the champion."""

from datetime import timedelta

from airflow.sdk import DAG, CronPartitionTimetable, Param
from night_jobs import DAY_FORMAT, DAY_PARAM, DEFAULT_ARGS, due_after, train_job

with DAG(
    dag_id="weekly_training",
    dag_display_name="Week: train a challenger",
    description="A new model takes over if it is not worse than the champion on the newest days.",
    # Monday 04:00 UTC, told in a zone five hours behind so that the key is the Sunday, whose
    # features were prepared at 02:00. An offset of -1 would go back a whole week.
    schedule=CronPartitionTimetable("0 23 * * 0", timezone="Etc/GMT+5", key_format=DAY_FORMAT),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    deadline=due_after(hours=13),
    params={
        **DAY_PARAM,
        "cold": Param(
            False,
            type="boolean",
            title="Start cold",
            description="Start from random weights, not from the champion's.",
        ),
    },
    tags=["weekly", "training"],
    doc_md="""\
### Training

Trains a challenger on the features of the partition's day, a Sunday, without their newest days, and
lets champion and challenger rank the events of those days. The challenger takes over if it is not
worse by more than `promotion.margin` of the settings; else it is kept with the reason beside it. The
decision is a row of the table `trainings` (`recbole-llm sql`).

It fails without a retry where `nightly_features` has not prepared that day. It shares the pool of the
nightly jobs, so it never runs beside them.
""",
):
    train_job(
        "train",
        timeout=timedelta(hours=12),
        more="{{ '--cold' if params.cold else '' }}",
        doc_md="""\
Starts from the champion's weights where the network's shape is the same; items are told by their
external ids, and new ones join. A challenger that was refused is no failure: the task succeeds and
the champion stands.
""",
    )
