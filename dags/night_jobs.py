"""How the DAGs start this project's jobs: where it lies, what a job is told, what is worth a retry.

Airflow runs in an environment of its own, without Spark, PyTorch or this project's packages, so a
job is started by path and told everything on its command line. Four environment variables say
where things are: RECBOLE_LLM_HOME, RECBOLE_LLM_WAREHOUSE, RECBOLE_LLM_VENV and RECBOLE_LLM_CONFIG.
"""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Asset, Context, Param, RetryDecision, RetryPolicy

HOME = Path(os.environ.get("RECBOLE_LLM_HOME") or Path(__file__).resolve().parent.parent)
WAREHOUSE = Path(os.environ.get("RECBOLE_LLM_WAREHOUSE") or HOME / "warehouse")
VENV = Path(os.environ.get("RECBOLE_LLM_VENV") or HOME / ".venv")
CONFIG = Path(os.environ.get("RECBOLE_LLM_CONFIG") or HOME / "configs" / "nightly.yaml")

FEATURES = Asset("features")
RECOMMENDATIONS = Asset("recommendations")
METRICS = Asset("metrics_daily")

DAY_FORMAT = "%Y-%m-%d"
# Asset-triggered runs have no logical date, so ``ds`` is undefined there. The parameter is for runs
# without a partition, such as ``dag.test(run_conf={"ds": "2024-05-01"})``.
DAY = "{{ partition_key or params.ds }}"
DAY_PARAM = {
    "ds": Param(None, type=["null", "string"], description="day, when no partition is set")
}

SPARK_POOL = "nightly_spark"
"""One slot: a night's Spark jobs share a machine's memory, so they run one after the other."""

FINAL_EXIT_CODES = range(2, 7)
"""Exit codes of bad settings, data, artifacts and audits; see ``recbole_llm/errors.py``."""


class RetryUnlessFinal(RetryPolicy):
    """Fail at once when the job itself said that a retry gives the same answer.

    Both operators hide the exit code in their exception's message. In cluster deploy mode the code
    does not reach Airflow, and every failure is retried.
    """

    _exit_code = re.compile(
        r"\ACannot execute: .*? Error code is: (\d+)\."
        r"|\ABash command failed\. The command returned a non-zero exit code (\d+)\.",
        re.DOTALL,
    )

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Decide from the exit code in the exception's message; without one, retry as usual."""
        if found := self._exit_code.match(str(exception)):
            code = int(found[1] or found[2])
            if code in FINAL_EXIT_CODES:
                return RetryDecision.fail(f"exit code {code}: a retry would fail in the same way")
        return RetryDecision.default()


DEFAULT_ARGS: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_policy": RetryUnlessFinal(),
}


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
        pool=SPARK_POOL,
        execution_timeout=timeout,
        **settings,
    )


def train_job(task_id: str, timeout: timedelta, *, if_none: bool = False) -> BashOperator:
    """A task that trains on the run's day.

    Args:
        task_id: the task's name.
        timeout: how long it may take.
        if_none: train only where no model is in use yet.
    """
    # Values travel as variables, never as text of the command: the shell must not read a day that
    # somebody typed.
    command = 'exec "$RECBOLE_LLM" train --warehouse "$WAREHOUSE" --config "$CONFIG" --day "$DAY"'
    return BashOperator(
        task_id=task_id,
        bash_command=command + (" --if-none" if if_none else ""),
        env={
            "RECBOLE_LLM": str(VENV / "bin" / "recbole-llm"),
            "WAREHOUSE": str(WAREHOUSE),
            "CONFIG": str(CONFIG),
            "DAY": DAY,
        },
        append_env=True,
        # 99 would read as "skipped", and the tasks behind it would be skipped in silence.
        skip_on_exit_code=None,
        do_xcom_push=False,
        execution_timeout=timeout,
    )


def tell_report(context: Context, _: Any) -> None:
    """Give the asset's event the path of the night's report; for ``post_execute``."""
    day = context.get("partition_key") or context["params"]["ds"]
    report = WAREHOUSE / "reports" / f"ds={day}" / "index.html"
    context["outlet_events"][METRICS].extra = {"report": str(report)}
