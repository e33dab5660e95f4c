"""The three DAGs, held exactly. Run in Airflow's environment:

.venv-airflow/bin/python -m pytest tests/dags
"""

import datetime
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow.sdk", reason="runs in Airflow's environment")

HOME = Path(__file__).resolve().parents[2]
DAY = "2024-05-01"
SPARK_JOBS = {
    ("nightly_features", "prepare_features"),
    ("nightly_recommendations", "score_users"),
    ("nightly_recommendations", "publish"),
    ("nightly_recommendations", "measure_night"),
}
TRAINING_JOBS = {("nightly_recommendations", "ensure_champion"), ("weekly_training", "train")}


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The DAGs as Airflow finds them in the project's folder, by ``dag_id``."""
    os.environ["AIRFLOW_HOME"] = str(tmp_path_factory.mktemp("airflow"))
    for name, value in _places().items():
        os.environ[name] = value
    from airflow.dag_processing.dagbag import BundleDagBag

    bag = BundleDagBag(HOME / "dags", bundle_path=HOME / "dags", bundle_name="dags-folder")
    assert bag.import_errors == {}
    return bag.dags


def _places() -> dict[str, str]:
    return {
        "RECBOLE_LLM_HOME": "/home of it",
        "RECBOLE_LLM_WAREHOUSE": "/data",
        "RECBOLE_LLM_VENV": "/venv",
        "RECBOLE_LLM_CONFIG": "/night.yaml",
    }


def _tasks(dags: Any, names: set[tuple[str, str]]) -> list[Any]:
    return [dags[dag_id].get_task(task_id) for dag_id, task_id in sorted(names)]


def _render(task: Any, **context: Any) -> Any:
    """Render a copy of the task; a name that the context lacks is an error."""
    from airflow.sdk.definitions._internal.templater import create_template_env

    copy = task.prepare_for_execution()
    copy.render_template_fields(context, create_template_env())
    return copy


def test_tasks_and_edges(dags: Any) -> None:
    edges = {
        dag_id: {task.task_id: task.downstream_task_ids for task in dag.tasks}
        for dag_id, dag in dags.items()
    }
    assert edges == {
        "nightly_features": {"prepare_features": set()},
        "nightly_recommendations": {
            "ensure_champion": {"score_users"},
            "score_users": {"publish"},
            "publish": {"measure_night"},
            "measure_night": set(),
        },
        "weekly_training": {"train": set()},
    }


def test_each_dag_says_how_it_runs(dags: Any) -> None:
    for dag in dags.values():
        assert dag.catchup is False
        assert dag.max_active_runs == 1
        assert dag.tags
        assert dag.doc_md.startswith("### ")


def test_limits_of_each_task(dags: Any) -> None:
    found = {
        task.task_id: (task.retries, task.retry_delay, task.execution_timeout, task.pool)
        for dag in dags.values()
        for task in dag.tasks
    }
    delay = timedelta(seconds=30)
    assert found == {
        "prepare_features": (2, delay, timedelta(hours=2), "nightly_spark"),
        "ensure_champion": (2, delay, timedelta(hours=12), "default_pool"),
        "score_users": (2, delay, timedelta(hours=4), "nightly_spark"),
        "publish": (2, delay, timedelta(hours=1), "nightly_spark"),
        "measure_night": (2, delay, timedelta(hours=1), "nightly_spark"),
        "train": (2, delay, timedelta(hours=12), "default_pool"),
    }


def test_assets_link_the_halves_of_a_night(dags: Any) -> None:
    outlets = {
        task.task_id: [asset.name for asset in task.outlets]
        for dag in dags.values()
        for task in dag.tasks
        if task.outlets
    }
    assert outlets == {
        "prepare_features": ["features"],
        "publish": ["recommendations"],
        "measure_night": ["metrics_daily"],
    }
    waits_for = dags["nightly_recommendations"].schedule.asset_condition
    assert waits_for.name == "features"


@pytest.mark.parametrize(
    ("dag_id", "now", "starts", "key"),
    [
        ("nightly_features", "2024-05-02T01:00", "2024-05-02T02:00", "2024-05-01"),
        ("nightly_features", "2024-05-02T12:00", "2024-05-03T02:00", "2024-05-02"),
        # 2024-05-06 is a Monday.
        ("weekly_training", "2024-05-02T03:00", "2024-05-06T04:00", "2024-05-05"),
        ("weekly_training", "2024-05-07T12:00", "2024-05-13T04:00", "2024-05-12"),
    ],
)
def test_a_schedule_takes_a_day_that_is_over(
    dags: Any, monkeypatch: pytest.MonkeyPatch, dag_id: str, now: str, starts: str, key: str
) -> None:
    from airflow.serialization.encoders import coerce_to_core_timetable
    from airflow.timetables import trigger
    from airflow.timetables.base import TimeRestriction

    moment = datetime.datetime.fromisoformat(now).replace(tzinfo=datetime.UTC)
    monkeypatch.setattr(trigger, "utcnow", lambda: moment)
    timetable = coerce_to_core_timetable(dags[dag_id].schedule)
    info = timetable.next_dagrun_info_v2(
        last_dagrun_info=None, restriction=TimeRestriction(None, None, catchup=False)
    )
    expected = datetime.datetime.fromisoformat(starts).replace(tzinfo=datetime.UTC)
    assert (info.run_after, info.partition_key) == (expected, key)


def test_a_spark_job_is_submitted_for_the_partition(dags: Any) -> None:
    for template in _tasks(dags, SPARK_JOBS):
        task = _render(template, partition_key=DAY, params={"ds": None})
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


@pytest.mark.parametrize("context", [{"partition_key": DAY, "params": {}}, {"params": {"ds": DAY}}])
def test_the_metrics_asset_names_the_report(dags: Any, context: dict[str, Any]) -> None:
    from airflow.sdk.execution_time.context import OutletEventAccessors

    (task,) = _tasks(dags, {("nightly_recommendations", "measure_night")})
    events = OutletEventAccessors()
    task._post_execute_hook({**context, "outlet_events": events}, None)
    (asset,) = task.outlets
    assert events[asset].extra == {"report": f"/data/reports/ds={DAY}/index.html"}


def test_only_the_table_decides_whether_it_is_published(dags: Any) -> None:
    """Nothing waits for the measuring, which runs only where there is a new table."""
    (task,) = _tasks(dags, {("nightly_recommendations", "measure_night")})
    assert task.trigger_rule == "all_success"
    assert task.downstream_task_ids == set()
    assert task.upstream_task_ids == {"publish"}


def test_a_run_without_a_partition_takes_the_parameter(dags: Any) -> None:
    context = {"partition_key": None, "params": {"ds": DAY}}
    for task in _tasks(dags, SPARK_JOBS):
        assert _render(task, **context).application_args[-2:] == ["--day", DAY]
    for task in _tasks(dags, TRAINING_JOBS):
        assert _render(task, **context).env["DAY"] == DAY


@pytest.mark.parametrize(("task_id", "more"), [("ensure_champion", ["--if-none"]), ("train", [])])
@pytest.mark.parametrize("day", [DAY, "$(touch planted) '; touch planted; \""])
def test_training_gets_its_arguments_whole(
    dags: Any, tmp_path: Path, task_id: str, more: list[str], day: str
) -> None:
    """Run the command against a program that prints what it was given."""
    (task,) = [t for t in _tasks(dags, TRAINING_JOBS) if t.task_id == task_id]
    task = _render(task, partition_key=day, params={"ds": None})
    assert task.env["RECBOLE_LLM"] == "/venv/bin/recbole-llm"
    show = tmp_path / "show arguments"
    show.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    show.chmod(0o755)
    ran = subprocess.run(
        ["bash", "-c", task.bash_command],
        env={**os.environ, **task.env, "RECBOLE_LLM": str(show)},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout) == [
        "train", "--warehouse", "/data", "--config", "/night.yaml", "--day", day, *more,
    ]  # fmt: skip
    assert not (tmp_path / "planted").exists()


def test_an_exit_code_of_99_is_a_failure(dags: Any) -> None:
    for task in _tasks(dags, TRAINING_JOBS):
        assert 99 not in task.skip_on_exit_code


@pytest.mark.parametrize(
    ("code", "action"),
    [(1, "default"), (2, "fail"), (3, "fail"), (4, "fail"), (5, "fail"), (6, "fail"),
     (7, "default"), (26, "default"), (137, "default")],
)  # fmt: skip
def test_only_final_exit_codes_end_a_task_at_once(
    dags: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, action: str
) -> None:
    """Let the operators fail for real: their messages carry the exit code."""
    submit = tmp_path / "spark-submit"
    # The output names another code, as a job's own message may.
    submit.write_text(f"#!/bin/sh\necho 'Error code is: {9 - code}.'\nexit {code}\n")
    submit.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv(
        "AIRFLOW_CONN_SPARK_DEFAULT",
        '{"conn_type": "spark", "host": "local[2]", "extra": {"spark-binary": "spark-submit"}}',
    )
    (train,) = _tasks(dags, {("weekly_training", "train")})
    (publish,) = _tasks(dags, {("nightly_recommendations", "publish")})
    train = _render(train, partition_key=DAY, params={})
    train.bash_command = f"exit {code}"
    for task in (train, _render(publish, partition_key=DAY, params={})):
        with pytest.raises(Exception, match=rf"code(?: is:)? {code}\.") as failure:
            task.execute({})
        decision = task.retry_policy.evaluate(failure.value, try_number=1, max_tries=2)
        assert decision.action.value == action


def test_an_error_of_airflow_itself_is_retried(dags: Any) -> None:
    (publish,) = _tasks(dags, {("nightly_recommendations", "publish")})
    error = TimeoutError("no answer; the last command ended with exit code 3")
    decision = publish.retry_policy.evaluate(error, try_number=1, max_tries=2)
    assert decision.action.value == "default"


def test_parsing_a_dag_loads_no_heavy_module(tmp_path: Path) -> None:
    """In a fresh interpreter for each file, as the DAG processor forks one."""
    heavy = ["torch", "pyspark", "pandas", "numpy", "recbole", "recbole_llm", "spark_jobs"]
    parse = (
        "import json, runpy, sys\n"
        "sys.path.append(sys.argv[1])\n"
        "runpy.run_path(sys.argv[2])\n"
        "print(json.dumps([name for name in sys.argv[3:] if name in sys.modules]))"
    )
    files = sorted((HOME / "dags").glob("*.py"))
    assert len(files) == 4
    for file in files:
        ran = subprocess.run(
            [sys.executable, "-c", parse, str(HOME / "dags"), str(file), *heavy],
            env={**os.environ, "AIRFLOW_HOME": str(tmp_path)}, cwd=HOME,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(ran.stdout.splitlines()[-1]) == [], file.name
