"""Ask a running Airflow, through its REST API, to run a day and to say how it went.

Standard library only: Airflow lives in an environment of its own.
"""

import datetime
import json
import logging
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from recbole_llm.errors import NotFoundError, RecboleLlmError

logger = logging.getLogger(__name__)

POLL_S = 1.0
REQUEST_TIMEOUT_S = 90.0
# The scheduler looks for new assets each second or so; a minute without a run means there is none.
CREATE_TIMEOUT_S = 60.0
LOG_TAIL_LINES = 15
LOG_EVERY_S = 15.0
# What this project's jobs log; Spark and Airflow write theirs in other forms. A line that ends with
# a colon only announces others.
_OWN_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?:INFO|WARNING) (.*[^:\s])\s*$")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# Queueing says nothing about a job; these states do.
TOLD_STATES = {"running", "success", "failed", "up_for_retry", "upstream_failed", "skipped"}


class AirflowClient:
    """The few calls that a night needs.

    Args:
        url: address of the API server, as ``http://127.0.0.1:8080``.
        user: a user of Airflow's simple auth manager.
        password: that user's password.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._token = ""
        # A proxy in the environment would be asked for this machine's own address.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one request below ``/api/v2`` and return the JSON of the answer.

        Raises:
            NotFoundError: Airflow knows no such thing.
            RecboleLlmError: any other refusal; the message holds Airflow's own words.
            urllib.error.URLError: nobody answers.
        """
        try:
            return self._send(method, f"/api/v2{path}", body)
        except urllib.error.HTTPError as refusal:
            if refusal.code != 401:
                raise _refused(method, path, refusal) from None
        self._token = self._send("POST", "/auth/token", self._login)["access_token"]
        try:
            return self._send(method, f"/api/v2{path}", body)
        except urllib.error.HTTPError as refusal:
            raise _refused(method, path, refusal) from None

    def pause(self, dag_id: str, paused: bool) -> None:
        """Pause a DAG or let it run. A paused DAG accepts runs and starts no task."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": paused})

    def set_pool(self, name: str, settings: dict[str, Any]) -> None:
        """Create a pool, or give an existing one these settings.

        Args:
            settings: ``slots``, ``description`` and ``include_deferred``, as in a file of pools.
        """
        try:
            self.call("PATCH", f"/pools/{name}", {"pool": name, **settings})
        except NotFoundError:
            self.call("POST", "/pools", {"name": name, **settings})

    def trigger(self, dag_id: str, day: str) -> str:
        """Queue a run of one day.

        Returns:
            The run's id; a day can be run many times.
        """
        run = self.call(
            "POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "partition_key": day}
        )
        return str(run["dag_run_id"])

    def fail(self, dag_id: str, run_id: str) -> None:
        """Mark a run as failed, with what it still had to do."""
        self.call("PATCH", _run_path(dag_id, run_id), {"state": "failed"})

    def backfill(self, dag_id: str, first_day: str, last_day: str) -> dict[str, str]:
        """Queue a run of each day of a range by Airflow's backfill, also of days that ran before.

        The runs start one after the other, oldest day first.

        Args:
            dag_id: a DAG whose partitions are days.
            first_day, last_day: ``YYYY-MM-DD``, both inclusive.
        Returns:
            Run id by day, oldest day first.
        Raises:
            RecboleLlmError: Airflow made no run for a day, as one is queued or running.
        """
        first, last = map(datetime.date.fromisoformat, (first_day, last_day))
        days = [str(first + datetime.timedelta(n)) for n in range((last - first).days + 1)]
        body = {
            "dag_id": dag_id,
            "from_date": f"{first_day}T00:00:00Z",
            "to_date": f"{last_day}T00:00:00Z",
            "reprocess_behavior": "completed",
            "max_active_runs": 1,
        }
        created_at = self.call("POST", "/backfills", body)["created_at"]
        began = datetime.datetime.fromisoformat(created_at)
        made: dict[str, str] = {}
        query: dict[str, Any] = {"run_type": "backfill", "order_by": "-id", "limit": 100}
        while True:  # newest first; runs of an earlier backfill end it
            page = urllib.parse.urlencode({**query, "offset": len(made)})
            runs = self.call("GET", f"/dags/{dag_id}/dagRuns?{page}")["dag_runs"]
            ours = [r for r in runs if datetime.datetime.fromisoformat(r["queued_at"]) >= began]
            made |= {str(run["partition_key"]): str(run["dag_run_id"]) for run in ours}
            if not ours or len(ours) < query["limit"]:
                break
        if absent := [day for day in days if day not in made]:
            raise RecboleLlmError(
                f"the backfill of {dag_id} made no run for {', '.join(absent)}: one is queued or "
                "running; wait for it, or mark it as failed"
            )
        return {day: made[day] for day in days}

    def caused_run(self, dag_id: str, cause_run_id: str, day: str, timeout_s: float) -> str:
        """Find the run that another run's asset started.

        A day can be run twice, so the day alone does not tell which run is meant: this follows the
        asset's event from the run that caused it.

        Args:
            dag_id: the asset-triggered DAG.
            cause_run_id: the finished run that wrote the asset.
            day: the partition that both runs share.
            timeout_s: how long the run may queue behind others.
        Raises:
            RecboleLlmError: no such run was made, or it did not leave its queue in time.
        """
        started = time.monotonic()
        others: set[str] = set()
        query = urllib.parse.urlencode(
            {"partition_key_pattern": day, "order_by": "-run_after", "limit": 20}
        )
        while True:
            runs = self.call("GET", f"/dags/{dag_id}/dagRuns?{query}")["dag_runs"]
            runs = [run for run in runs if run["partition_key"] == day]
            # Airflow 3.3.2 answers 500 when asked for the events of a run that has not started.
            for run_id in [str(run["dag_run_id"]) for run in runs if run["start_date"]]:
                if run_id in others:
                    continue
                events = self.call("GET", f"{_run_path(dag_id, run_id)}/upstreamAssetEvents")
                if any(e["source_run_id"] == cause_run_id for e in events["asset_events"]):
                    return run_id
                others.add(run_id)
            is_queued = any(run["state"] == "queued" for run in runs)
            if time.monotonic() - started > (timeout_s if is_queued else CREATE_TIMEOUT_S):
                raise RecboleLlmError(
                    f"the asset of run {cause_run_id} did not start {dag_id} for {day}: "
                    + ("its run is queued" if is_queued else "is the DAG paused?")
                )
            time.sleep(POLL_S)

    def wait(self, dag_id: str, run_id: str, timeout_s: float) -> None:
        """Return when a run has succeeded, telling each task's changes of state meanwhile.

        Raises:
            RecboleLlmError: the run failed, with the failed task and the end of its log, or it was
                not finished in time.
        """
        started = time.monotonic()
        told_log = started
        told: dict[str, tuple[int, str]] = {}
        while True:
            run = self.call("GET", _run_path(dag_id, run_id))
            tasks = self.call("GET", f"{_run_path(dag_id, run_id)}/taskInstances")["task_instances"]
            day = run["partition_key"]
            for task in tasks:
                now = (task["try_number"], task["state"])
                if task["state"] in TOLD_STATES and told.get(task["task_id"]) != now:
                    told[task["task_id"]] = now
                    logger.info("%s", _describe(task, day))
                    if task["state"] == "success":
                        self._tell_stage(dag_id, run_id, task)
                if task["state"] == "running" and time.monotonic() - told_log > LOG_EVERY_S:
                    told_log = time.monotonic()
                    self._tell_stage(dag_id, run_id, task)
            if run["state"] == "success":
                return
            if run["state"] == "failed":
                raise RecboleLlmError(self._failure(dag_id, run_id, day, tasks))
            if time.monotonic() - started > timeout_s:
                states = ", ".join(f"{task['task_id']} is {task['state']}" for task in tasks)
                raise RecboleLlmError(
                    f"{dag_id} for {day} is not finished after {timeout_s:.0f} s: {states}"
                )
            time.sleep(POLL_S)

    def _tell_stage(self, dag_id: str, run_id: str, task: dict[str, Any]) -> None:
        """Pass on the newest line that the task's own job has logged."""
        lines = self._log(dag_id, run_id, task["task_id"], task["try_number"])
        found = [line for text in lines if (line := _OWN_LINE.match(_ANSI.sub("", text)))]
        if found:
            logger.info("  %s", found[-1][1])

    def _failure(self, dag_id: str, run_id: str, day: str, tasks: list[dict[str, Any]]) -> str:
        failed = [task for task in tasks if task["state"] == "failed"]
        if not failed:
            return f"{dag_id} for {day} failed before any of its tasks did"
        task = failed[0]
        lines = self._log(dag_id, run_id, task["task_id"], task["try_number"])
        return "\n  ".join(
            [
                f"task {task['task_id']} of {dag_id} failed for {day}"
                f" (try {task['try_number']} of {task['max_tries'] + 1}); its log ends with:",
                *lines[-LOG_TAIL_LINES:],
            ]
        )

    def _log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> list[str]:
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        content = self.call("GET", f"{path}?full_content=true")["content"]
        lines: list[str] = []
        for entry in content:
            # AirflowException is how an operator says that its command failed; the command has
            # said more. Any other error, such as a timeout, is Airflow's own to tell.
            if entry["event"] == "Task failed with exception":
                lines += [
                    f"{error['exc_type']}: {error['exc_value']}"
                    for error in entry.get("error_detail") or []
                    if error["exc_type"] != "AirflowException"
                ]
                break
            lines += [x for x in str(entry["event"]).splitlines() if not x.startswith("::")]
        return lines

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        with self._opener.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
            return json.load(answer)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}"


def _describe(task: dict[str, Any], day: str) -> str:
    text = f"{day} {task['task_id']}: {task['state']}"
    if task["state"] != "running" and task["duration"] is not None:
        text += f" after {task['duration']:.1f} s"
    if task["try_number"] > 1:
        text += f" (try {task['try_number']} of {task['max_tries'] + 1})"
    return text


def _refused(method: str, path: str, refusal: urllib.error.HTTPError) -> RecboleLlmError:
    kind = NotFoundError if refusal.code == 404 else RecboleLlmError
    words = refusal.read().decode(errors="replace")
    return kind(f"Airflow refused {method} {path} with {refusal.code}: {words[:500]}")
