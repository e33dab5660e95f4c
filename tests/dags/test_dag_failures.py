"""What is tried again, what is not, and who is told. Run in Airflow's environment:

.venv-airflow/bin/python -m pytest tests/dags
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow.sdk", reason="runs in Airflow's environment")

DAY = "2024-05-01"


def test_an_exit_code_of_99_is_a_failure(dags: Any) -> None:
    tasks = [task for dag in dags.values() for task in dag.tasks]
    codes = [task.skip_on_exit_code for task in tasks if hasattr(task, "skip_on_exit_code")]
    assert len(codes) == 5  # of tasks that run a command
    assert not any(99 in skipped for skipped in codes)


@pytest.mark.parametrize(
    ("code", "action"),
    [(1, "default"), (2, "fail"), (3, "fail"), (4, "fail"), (5, "fail"), (6, "fail"),
     (7, "default"), (26, "default"), (137, "default")],
)  # fmt: skip
def test_only_final_exit_codes_end_a_task_at_once(
    dags: Any,
    render: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    code: int,
    action: str,
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
    train = dags["weekly_training"].get_task("train")
    publish = dags["nightly_recommendations"].get_task("publish")
    train = render(train, partition_key=DAY, params={"cold": False})
    train.bash_command = f"exit {code}"
    for task in (train, render(publish, partition_key=DAY, params={"cold": False})):
        with pytest.raises(Exception, match=rf"code(?: is:)? {code}\.") as failure:
            task.execute({})
        decision = task.retry_policy.evaluate(failure.value, try_number=1, max_tries=2)
        assert decision.action.value == action


def test_an_error_of_airflow_itself_is_retried(dags: Any) -> None:
    publish = dags["nightly_recommendations"].get_task("publish")
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
    caplog.clear()
    tell_late(context={"dag_run": {**run, "run_type": "scheduled"}, "deadline": deadline},
              alerts="/dev/full")  # fmt: skip
    assert "could not be written to /dev/full: No space left on device" in caplog.text
    assert "could not be posted to night_alerts: ValueError" in caplog.text
    assert "hostname" not in caplog.text
