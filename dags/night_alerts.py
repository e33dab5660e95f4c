"""Tell somebody that a task failed for good, or that a run is late.

An alert is an error in Airflow's log and a line of JSON in a file. Where Airflow has a connection
``night_alerts``, the same JSON is posted to its address too: the connection's host, and behind it
the connection's password, for a part of the address that must stay secret (of a connection, Airflow
masks the password in its logs). The JSON's ``text`` is what chat services show.

An alert holds names, days and numbers. The exception's own text stays in the task's log: it may
repeat whatever a command was told.
"""

import datetime
import json
import logging
import urllib.request
from pathlib import Path
from typing import Any

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from night_retries import FINAL_EXIT_CODES, exit_code

CONNECTION = "night_alerts"
_POST_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


def tell_failure(context: Any, alerts: str) -> None:
    """Airflow calls this when a task has failed and is not tried again.

    Args:
        context: the task's.
        alerts: the file that gets the line.
    """
    task, run, error = context["ti"], context["dag_run"], context.get("exception")
    code = exit_code(error) if isinstance(error, BaseException) else None
    if code is not None:
        reason = f"exit code {code}" + (
            f", {FINAL_EXIT_CODES[code]}" if code in FINAL_EXIT_CODES else ""
        )
    else:
        reason = type(error).__name__ if isinstance(error, BaseException) else "killed"
    day = run.partition_key or (run.conf or {}).get("ds")
    _tell(
        Path(alerts),
        {
            "kind": "failed",
            "text": f"{task.task_id} of {task.dag_id} failed for {day}: {reason}",
            "dag_id": task.dag_id,
            "task_id": task.task_id,
            "run_id": run.run_id,
            "day": day,
            "try_number": task.try_number,
            "reason": reason,
        },
    )


def tell_late(context: dict[str, Any], alerts: str) -> None:
    """Airflow calls this when a run's deadline passes; runs of a backfill wait and are not late.

    Args:
        context: ``dag_run`` and ``deadline``, as JSON.
        alerts: the file that gets the line.
    """
    run = context["dag_run"]
    if run["run_type"] == "backfill":
        return
    due = str(context["deadline"]["deadline_time"])
    day = run["partition_key"] or (run["conf"] or {}).get("ds")
    _tell(
        Path(alerts),
        {
            "kind": "late",
            "text": f"{run['dag_id']} for {day} was due at {due} and is {run['state']}",
            "dag_id": run["dag_id"],
            "task_id": None,
            "run_id": run["dag_run_id"],
            "day": day,
            "due": due,
            "reason": f"not finished at {due}",
        },
    )


def _tell(alerts: Path, alert: dict[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = json.dumps({"at": now, **alert}, ensure_ascii=False)
    _log.error("%s", alert["text"])
    try:
        alerts.parent.mkdir(parents=True, exist_ok=True)
        with alerts.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:  # a full disk may be what there is to tell
        _log.error("the alert could not be written to %s: %s", alerts, error.strerror)
    try:
        connection = Connection.get(CONNECTION)
    except AirflowNotFoundException:
        return
    # An error's text may repeat the address, so only its kind is logged.
    try:
        _post(connection, line)
    except (OSError, ValueError) as error:
        _log.error("the alert could not be posted to %s: %s", CONNECTION, type(error).__name__)


def _post(connection: Any, line: str) -> None:
    """Post a line to a connection's address.

    Raises:
        ValueError: the host is no http address.
        OSError: nobody answers there, or with an error.
    """
    host = (connection.host or "").rstrip("/")
    if not host.startswith(("http://", "https://")):
        raise ValueError("the host of an alert's connection starts with http:// or https://")
    address = f"{host}/{connection.password}" if connection.password else host
    request = urllib.request.Request(
        address, data=line.encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_POST_TIMEOUT_S):
        pass
