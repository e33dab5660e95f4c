"""How the DAGs start this project's jobs: where it lies, what a job is told, what is worth a retry.

Airflow runs in an environment of its own, without Spark, PyTorch or this project's packages, so a
job is started by path and told everything on its command line. Four environment variables say
where things are: RECBOLE_LLM_HOME, RECBOLE_LLM_WAREHOUSE, RECBOLE_LLM_VENV and RECBOLE_LLM_CONFIG.
"""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Asset, Context, DeadlineAlert, DeadlineReference, Param, SyncCallback
from night_alerts import tell_failure, tell_late
from night_retries import RetryUnlessFinal

HOME = Path(os.environ.get("RECBOLE_LLM_HOME") or Path(__file__).resolve().parent.parent)
WAREHOUSE = Path(os.environ.get("RECBOLE_LLM_WAREHOUSE") or HOME / "warehouse")
VENV = Path(os.environ.get("RECBOLE_LLM_VENV") or HOME / ".venv")
CONFIG = Path(os.environ.get("RECBOLE_LLM_CONFIG") or HOME / "configs" / "nightly.yaml")
ALERTS = str(WAREHOUSE / "alerts.jsonl")

FEATURES = Asset("features")
RECOMMENDATIONS = Asset("recommendations")
METRICS = Asset("metrics_daily")

DAY_FORMAT = "%Y-%m-%d"
# Asset-triggered runs have no logical date, so ``ds`` is undefined there. The parameter is for runs
# without a partition: those of the trigger form, or ``dag.test(run_conf={"ds": "2024-05-01"})``.
DAY = "{{ partition_key or params.ds }}"
DAY_PARAM = {
    "ds": Param(
        None,
        type=["null", "string"],
        format="date",
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        title="Day",
        description="The day to work on, YYYY-MM-DD. A run with a partition key takes that day.",
    )
}

POOL = "one_machine"
"""One slot, see pools.json: Spark jobs and training each fill a machine's memory, so they run one
after the other."""

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "recommendations",
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": RetryUnlessFinal(),
    "on_failure_callback": partial(tell_failure, alerts=ALERTS),
}


def due_after(hours: int) -> DeadlineAlert:
    """An alert for a run that is not finished so many hours after it was queued."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=SyncCallback(tell_late, kwargs={"alerts": ALERTS}),
    )


def pass_on_day(context: Context, _: Any = None) -> None:
    """Give the day of a run without partition to its assets, so that what waits for them starts."""
    if context.get("partition_key") is None:
        for asset in context["task"].outlets:
            context["outlet_events"][asset].add_partitions(context["params"]["ds"])


def tell_report(context: Context, _: Any = None) -> None:
    """``pass_on_day``, with the path of the night's report in the asset's event."""
    pass_on_day(context)
    day = context.get("partition_key") or context["params"]["ds"]
    report = WAREHOUSE / "reports" / f"ds={day}" / "index.html"
    context["outlet_events"][METRICS].extra = {"report": str(report)}


def spark_job(task_id: str, timeout: timedelta, **settings: Any) -> SparkSubmitOperator:
    """A task that submits ``spark_jobs/<task_id>.py`` for the run's day."""
    return SparkSubmitOperator(
        task_id=task_id,
        name=f"{task_id} {DAY}",
        application=str(HOME / "spark_jobs" / f"{task_id}.py"),
        application_args=["--warehouse", str(WAREHOUSE), "--config", str(CONFIG), "--day", DAY],
        conn_id="spark_default",
        conf={
            "spark.sql.session.timeZone": "UTC",
            "spark.ui.enabled": "false",
            # A second copy of a task would write the same attempt twice.
            "spark.speculation": "false",
        },
        driver_memory="4g",
        env_vars={
            "PYSPARK_PYTHON": str(VENV / "bin" / "python"),
            "PYSPARK_DRIVER_PYTHON": str(VENV / "bin" / "python"),
            "SPARK_HOME": str(VENV / "lib" / "python3.11" / "site-packages" / "pyspark"),
        },
        pool=POOL,
        execution_timeout=timeout,
        **{"post_execute": pass_on_day, **settings},
    )


def train_job(task_id: str, timeout: timedelta, more: str = "", **settings: Any) -> BashOperator:
    """A task that trains on the run's day.

    Args:
        task_id: the task's name.
        timeout: how long it may take.
        more: further flags of ``recbole-llm train``.
    """
    return _command(task_id, f"train {more}".strip(), timeout, pool=POOL, **settings)


def expire_job(task_id: str, timeout: timedelta, **settings: Any) -> BashOperator:
    """A task that deletes what is older, on the run's day, than its days of the night's settings."""
    return _command(task_id, "expire", timeout, **settings)


def sync_job(
    task_id: str, timeout: timedelta, all_days: bool = False, **settings: Any
) -> BashOperator:
    """A task that lets the sinks of the night's settings hold the published table, of the run's day or
    of all days.

    Where there are none it does nothing. A PostgreSQL sink's password may stand in the connection
    ``recommendations_postgres``.
    """
    password = (
        "{% set c = conn.get('recommendations_postgres') %}{{ c.password or '' if c else '' }}"
    )
    task = _command(task_id, "sync", timeout, {"PASSWORD": password}, all_days, **settings)
    task.bash_command = f'PGPASSWORD="${{PASSWORD:-$PGPASSWORD}}" {task.bash_command}'
    return task


def _command(
    task_id: str,
    command: str,
    timeout: timedelta,
    env: dict[str, str] | None = None,
    all_days: bool = False,
    **settings: Any,
) -> BashOperator:
    """A task that runs a command of ``recbole-llm``, for the run's day or for all days."""
    # Values travel as variables, never as text of the command: the shell must not read a day that
    # somebody typed.
    flags = '--warehouse "$WAREHOUSE" --config "$CONFIG"' + ("" if all_days else ' --day "$DAY"')
    name, _, more = command.partition(" ")
    return BashOperator(
        task_id=task_id,
        bash_command=f'exec "$RECBOLE_LLM" {name} {flags} {more}'.strip(),
        env={
            "RECBOLE_LLM": str(VENV / "bin" / "recbole-llm"),
            "WAREHOUSE": str(WAREHOUSE),
            "CONFIG": str(CONFIG),
            "DAY": DAY,
            **(env or {}),
        },
        append_env=True,
        # 99 would read as "skipped", and the tasks behind it would be skipped in silence.
        skip_on_exit_code=None,
        do_xcom_push=False,
        execution_timeout=timeout,
        **settings,
    )
