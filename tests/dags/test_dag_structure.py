"""The DAGs, held exactly. Run in Airflow's environment:

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

SINKS = {("nightly_recommendations", "sync_sinks")}


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
            "publish": {"measure_night", "sync_sinks"},
            "measure_night": set(),
            "sync_sinks": set(),
        },
        "weekly_training": {"train": set()},
        "retention": {"expire": {"sync_all_days"}, "sync_all_days": set()},
    }


def test_each_dag_says_how_it_runs(dags: Any) -> None:
    for dag in dags.values():
        assert dag.catchup is False
        assert dag.max_active_runs == 1
        assert dag.tags
        assert dag.doc_md.startswith("### ")
        assert dag.dag_display_name != dag.dag_id
        assert dag.deadline[0].reference.reference_name == "DagRunQueuedAtDeadline"
        assert dag.deadline[0].callback.path == "night_alerts.tell_late"
        assert dag.params["ds"] is None
        for task in dag.tasks:
            assert task.owner == "recommendations"
            assert task.doc_md


def test_limits_of_each_task(dags: Any) -> None:
    found = {
        task.task_id: (task.retries, task.retry_delay, task.execution_timeout, task.pool)
        for dag in dags.values()
        for task in dag.tasks
    }
    delay = timedelta(seconds=30)
    assert found == {
        "prepare_features": (2, delay, timedelta(hours=2), "one_machine"),
        "ensure_champion": (2, delay, timedelta(hours=12), "one_machine"),
        "score_users": (2, delay, timedelta(hours=4), "one_machine"),
        "publish": (2, delay, timedelta(hours=1), "one_machine"),
        "sync_sinks": (2, delay, timedelta(hours=2), "default_pool"),
        "measure_night": (2, delay, timedelta(hours=1), "one_machine"),
        "train": (2, delay, timedelta(hours=12), "one_machine"),
        "expire": (2, delay, timedelta(hours=2), "one_machine"),
        "sync_all_days": (2, delay, timedelta(hours=2), "default_pool"),
    }


def test_the_pool_exists_and_runs_one_task_at_a_time(dags: Any) -> None:
    pools = json.loads((HOME / "dags" / "pools.json").read_text())
    named = {task.pool for dag in dags.values() for task in dag.tasks} - {"default_pool"}
    assert named == set(pools)
    assert [pool["slots"] for pool in pools.values()] == [1]


@pytest.mark.parametrize("day", ["2024-5-1", "20240501", "2024-02-30", "yesterday", 20240501])
def test_the_trigger_form_takes_days_alone(dags: Any, day: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    for dag in dags.values():
        dag.params.validate()
        param = dag.params.get_param("ds")
        assert param.resolve(DAY) == DAY
        with pytest.raises(ParamValidationError):
            param.resolve(day)
    with pytest.raises(ParamValidationError):
        dags["weekly_training"].params.get_param("cold").resolve("yes")


def test_a_run_without_a_partition_passes_its_day_on(dags: Any) -> None:
    from airflow.sdk.execution_time.context import OutletEventAccessors

    task = dags["nightly_features"].get_task("prepare_features")
    for key, passed_on in ((None, {DAY}), ("2024-05-02", set())):
        events = OutletEventAccessors()
        context = {
            "task": task, "outlet_events": events, "partition_key": key, "params": {"ds": DAY}
        }  # fmt: skip
        task._post_execute_hook(context, None)
        assert events[task.outlets[0]].partition_keys == passed_on


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
        ("retention", "2024-05-07T20:00", "2024-05-08T12:00", "2024-05-08"),
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


def test_a_backfill_has_both_its_days(dags: Any) -> None:
    from airflow.serialization.encoders import coerce_to_core_timetable

    timetable = coerce_to_core_timetable(dags["nightly_features"].schedule)
    first, last = (datetime.datetime(2024, 5, day, tzinfo=datetime.UTC) for day in (30, 31))
    infos = list(timetable.iter_partition_dagrun_infos(earliest=first, latest=last))
    assert [info.partition_key for info in infos] == ["2024-05-30", "2024-05-31"]
    for info in infos:  # else a backfill would not see the run that was triggered for the day
        assert info.partition_date == timetable.resolve_partition_date(info.partition_key)


def test_a_spark_job_is_submitted_for_the_partition(dags: Any) -> None:
    for template in _tasks(dags, SPARK_JOBS):
        task = _render(template, partition_key=DAY, params={"ds": None, "cold": False})
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
    task._post_execute_hook({**context, "task": task, "outlet_events": events}, None)
    (asset,) = task.outlets
    assert events[asset].extra == {"report": f"/data/reports/ds={DAY}/index.html"}


def test_only_the_table_decides_whether_it_is_published(dags: Any) -> None:
    """Nothing waits for the measuring, which runs only where there is a new table."""
    (task,) = _tasks(dags, {("nightly_recommendations", "measure_night")})
    assert task.trigger_rule == "all_success"
    assert task.downstream_task_ids == set()
    assert task.upstream_task_ids == {"publish"}


def test_a_run_without_a_partition_takes_the_parameter(dags: Any) -> None:
    context = {"partition_key": None, "params": {"ds": DAY, "cold": False}}
    for task in _tasks(dags, SPARK_JOBS):
        assert _render(task, **context).application_args[-2:] == ["--day", DAY]
    for task in _tasks(dags, TRAINING_JOBS):
        assert _render(task, **context).env["DAY"] == DAY


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
    dags: Any, tmp_path: Path, task_id: str, more: list[str], day: str
) -> None:
    (task,) = [t for t in _tasks(dags, TRAINING_JOBS) if t.task_id == task_id]
    task = _render(task, partition_key=day, params={"ds": None, "cold": True})
    assert task.env["RECBOLE_LLM"] == "/venv/bin/recbole-llm"
    assert _run(task, tmp_path, "sys.argv[1:]") == [
        "train", "--warehouse", "/data", "--config", "/night.yaml", "--day", day, *more,
    ]  # fmt: skip
    assert not (tmp_path / "planted").exists()


def test_what_is_past_its_days_goes_and_the_sinks_follow_for_all_days(
    dags: Any, tmp_path: Path
) -> None:
    from airflow.sdk.execution_time.context import ConnectionAccessor

    names = {("retention", "expire"), ("retention", "sync_all_days")}
    where = ["--warehouse", "/data", "--config", "/night.yaml"]
    given = []
    for task in _tasks(dags, names):
        done = _render(task, partition_key=DAY, params={"ds": None}, conn=ConnectionAccessor())
        given.append(_run(done, tmp_path, "sys.argv[1:]"))
    assert given == [["expire", *where, "--day", DAY], ["sync", *where]]


@pytest.mark.parametrize("password", ["", "a 'word'; touch planted"])
def test_sinks_get_the_password_of_the_connection(
    dags: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    from airflow.sdk.execution_time.context import ConnectionAccessor

    if password:
        connection = json.dumps({"conn_type": "postgres", "password": password})
        monkeypatch.setenv("AIRFLOW_CONN_RECOMMENDATIONS_POSTGRES", connection)
    monkeypatch.setenv("PGPASSWORD", "the worker's")
    (task,) = _tasks(dags, SINKS)
    task = _render(task, partition_key=DAY, params={"ds": None}, conn=ConnectionAccessor())
    assert _run(task, tmp_path, "[*sys.argv[1:], os.environ['PGPASSWORD']]") == [
        "sync", "--warehouse", "/data", "--config", "/night.yaml", "--day", DAY,
        password or "the worker's",
    ]  # fmt: skip
    assert not (tmp_path / "planted").exists()


def test_an_exit_code_of_99_is_a_failure(dags: Any) -> None:
    for task in _tasks(dags, TRAINING_JOBS | SINKS):
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
    train = _render(train, partition_key=DAY, params={"cold": False})
    train.bash_command = f"exit {code}"
    for task in (train, _render(publish, partition_key=DAY, params={"cold": False})):
        with pytest.raises(Exception, match=rf"code(?: is:)? {code}\.") as failure:
            task.execute({})
        decision = task.retry_policy.evaluate(failure.value, try_number=1, max_tries=2)
        assert decision.action.value == action


def test_an_error_of_airflow_itself_is_retried(dags: Any) -> None:
    (publish,) = _tasks(dags, {("nightly_recommendations", "publish")})
    error = TimeoutError("no answer; the last command ended with exit code 3")
    decision = publish.retry_policy.evaluate(error, try_number=1, max_tries=2)
    assert decision.action.value == "default"


def test_a_timeout_is_tried_again_once_and_a_missing_connection_never(dags: Any) -> None:
    from airflow.sdk.exceptions import AirflowNotFoundException, AirflowTaskTimeout

    policy = dags["nightly_recommendations"].get_task("publish").retry_policy
    for error, try_number, action in (
        (AirflowTaskTimeout(), 1, "default"),
        (AirflowTaskTimeout(), 2, "fail"),
        (AirflowNotFoundException("spark_default"), 1, "fail"),
    ):
        assert policy.evaluate(error, try_number, max_tries=2).action.value == action


def test_alerts_of_late_runs(
    dags: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A backfill's runs wait and are not late; an address that cannot be posted to hides no alert."""
    late = dags["nightly_features"].deadline[0].callback
    module, name = late.path.rsplit(".", 1)
    tell_late = getattr(sys.modules[module], name)
    alerts = tmp_path / "there" / "alerts.jsonl"
    connection = {"conn_type": "http", "host": "file:///etc", "password": "hostname"}
    monkeypatch.setenv("AIRFLOW_CONN_NIGHT_ALERTS", json.dumps(connection))
    run = {
        "run_type": "backfill", "partition_key": DAY, "conf": {}, "dag_id": "nightly_features",
        "dag_run_id": "a run", "state": "queued",
    }  # fmt: skip
    deadline = {"deadline_time": "2024-05-02 05:00:00+00:00"}
    tell_late(context={"dag_run": run, "deadline": deadline}, alerts=str(alerts))
    assert not alerts.exists()
    tell_late(context={"dag_run": {**run, "run_type": "scheduled"}, "deadline": deadline},
              alerts=str(alerts))  # fmt: skip
    (line,) = alerts.read_text().splitlines()
    assert json.loads(line)["text"] == (
        f"nightly_features for {DAY} was due at 2024-05-02 05:00:00+00:00 and is queued"
    )
    assert "could not be posted to night_alerts: ValueError" in caplog.text
    assert "hostname" not in caplog.text


def test_parsing_a_dag_loads_no_heavy_module(tmp_path: Path) -> None:
    """In a fresh interpreter for each DAG, as the DAG processor forks one; they import the others."""
    heavy = ["torch", "pyspark", "pandas", "numpy", "recbole", "recbole_llm", "spark_jobs"]
    parse = (
        "import json, runpy, sys\n"
        "sys.path.append(sys.argv[1])\n"
        "runpy.run_path(sys.argv[2])\n"
        "print(json.dumps([name for name in sys.argv[3:] if name in sys.modules]))"
    )
    files = sorted((HOME / "dags").glob("*ly_*.py"))
    assert len(files) == 3
    for file in files:
        ran = subprocess.run(
            [sys.executable, "-c", parse, str(HOME / "dags"), str(file), *heavy],
            env={**os.environ, "AIRFLOW_HOME": str(tmp_path)}, cwd=HOME,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(ran.stdout.splitlines()[-1]) == [], file.name
