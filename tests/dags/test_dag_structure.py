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


@pytest.mark.parametrize("context", [{"partition_key": DAY, "params": {}}, {"params": {"ds": DAY}}])
def test_the_metrics_asset_names_the_report(dags: Any, context: dict[str, Any]) -> None:
    from airflow.sdk.execution_time.context import OutletEventAccessors

    task = dags["nightly_recommendations"].get_task("measure_night")
    events = OutletEventAccessors()
    task._post_execute_hook({**context, "task": task, "outlet_events": events}, None)
    (asset,) = task.outlets
    assert events[asset].extra == {"report": f"/data/reports/ds={DAY}/index.html"}


def test_only_the_table_decides_whether_it_is_published(dags: Any) -> None:
    """Nothing waits for the measuring, which runs only where there is a new table."""
    task = dags["nightly_recommendations"].get_task("measure_night")
    assert task.trigger_rule == "all_success"
    assert task.downstream_task_ids == set()
    assert task.upstream_task_ids == {"publish"}


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
