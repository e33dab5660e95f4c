"""What the tasks run, with which arguments. Run in Airflow's environment:

.venv-airflow/bin/python -m pytest tests/dags
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow.sdk", reason="runs in Airflow's environment")

DAY = "2024-05-01"
SPARK_JOBS = {
    ("nightly_features", "prepare_features"),
    ("nightly_recommendations", "score_users"),
    ("nightly_recommendations", "publish"),
    ("nightly_recommendations", "measure_night"),
}
TRAINING_JOBS = {("nightly_recommendations", "ensure_champion"), ("weekly_training", "train")}
SINKS = {("nightly_recommendations", "sync_sinks")}


def _tasks(dags: Any, names: set[tuple[str, str]]) -> list[Any]:
    return [dags[dag_id].get_task(task_id) for dag_id, task_id in sorted(names)]


def test_a_spark_job_is_submitted_for_the_partition(dags: Any, render: Callable[..., Any]) -> None:
    for template in _tasks(dags, SPARK_JOBS):
        task = render(template, partition_key=DAY, params={"ds": None, "cold": False})
        assert task.application == f"/home of it/spark_jobs/{task.task_id}.py"
        assert task.application_args == [
            "--warehouse", "/data", "--config", "/night.yaml", "--day", DAY,
        ]  # fmt: skip
        assert task.name == f"{task.task_id} {DAY}"
        assert task.env_vars == {
            "PYSPARK_PYTHON": "/venv/bin/python",
            "PYSPARK_DRIVER_PYTHON": "/venv/bin/python",
            "SPARK_HOME": "/venv/lib/python3.11/site-packages/pyspark",
        }
        assert task.conf == {
            "spark.sql.session.timeZone": "UTC",
            "spark.ui.enabled": "false",
            "spark.speculation": "false",
        }


def test_a_run_without_a_partition_takes_the_parameter(
    dags: Any, render: Callable[..., Any]
) -> None:
    context = {"partition_key": None, "params": {"ds": DAY, "cold": False}}
    for task in _tasks(dags, SPARK_JOBS):
        assert render(task, **context).application_args[-2:] == ["--day", DAY]
    for task in _tasks(dags, TRAINING_JOBS):
        assert render(task, **context).env["DAY"] == DAY


def _run(task: Any, folder: Path, shown: str) -> Any:
    """Run a task's command with a program that prints what it was given in the program's place."""
    show = folder / "show arguments"
    show.write_text(f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps({shown}))\n")
    show.chmod(0o755)
    ran = subprocess.run(
        ["bash", "-c", task.bash_command],
        env={**os.environ, **task.env, "RECBOLE_LLM": str(show)},
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    ("task_id", "more"), [("ensure_champion", ["--if-none"]), ("train", ["--cold"])]
)
@pytest.mark.parametrize("day", [DAY, "$(touch planted) '; touch planted; \""])
def test_training_gets_its_arguments_whole(
    dags: Any, render: Callable[..., Any], tmp_path: Path, task_id: str, more: list[str], day: str
) -> None:
    (task,) = [t for t in _tasks(dags, TRAINING_JOBS) if t.task_id == task_id]
    task = render(task, partition_key=day, params={"ds": None, "cold": True})
    assert task.env["RECBOLE_LLM"] == "/venv/bin/recbole-llm"
    assert _run(task, tmp_path, "sys.argv[1:]") == [
        "train", "--warehouse", "/data", "--config", "/night.yaml", "--day", day, *more,
    ]  # fmt: skip
    assert not (tmp_path / "planted").exists()


def test_what_is_past_its_days_goes_and_the_sinks_follow_for_all_days(
    dags: Any, render: Callable[..., Any], tmp_path: Path
) -> None:
    from airflow.sdk.execution_time.context import ConnectionAccessor

    names = {("retention", "expire"), ("retention", "sync_all_days")}
    where = ["--warehouse", "/data", "--config", "/night.yaml"]
    given = []
    for task in _tasks(dags, names):
        done = render(task, partition_key=DAY, params={"ds": None}, conn=ConnectionAccessor())
        given.append(_run(done, tmp_path, "sys.argv[1:]"))
    assert given == [["expire", *where, "--day", DAY], ["sync", *where]]


@pytest.mark.parametrize("password", ["", "a 'word'; touch planted"])
def test_sinks_get_the_password_of_the_connection(
    dags: Any,
    render: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    password: str,
) -> None:
    from airflow.sdk.execution_time.context import ConnectionAccessor

    if password:
        connection = json.dumps({"conn_type": "postgres", "password": password})
        monkeypatch.setenv("AIRFLOW_CONN_RECOMMENDATIONS_POSTGRES", connection)
    monkeypatch.setenv("PGPASSWORD", "the worker's")
    (task,) = _tasks(dags, SINKS)
    task = render(task, partition_key=DAY, params={"ds": None}, conn=ConnectionAccessor())
    assert _run(task, tmp_path, "[*sys.argv[1:], os.environ['PGPASSWORD']]") == [
        "sync", "--warehouse", "/data", "--config", "/night.yaml", "--day", DAY,
        password or "the worker's",
    ]  # fmt: skip
    assert not (tmp_path / "planted").exists()
