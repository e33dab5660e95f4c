"""An Airflow of one warehouse on one machine, started and stopped from the project's environment.

    with LocalAirflow(home, warehouse, venv_airflow) as airflow:
        run_night(airflow, "2024-05-01")

Airflow's packages do not fit beside RecBole's, so it runs as processes of another environment and
is spoken to by REST alone. Its database, logs and password lie in ``<warehouse>/airflow``.
"""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import secrets
import socket
import sqlite3
import subprocess
import time
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from recbole_llm.airflow_client import AirflowClient
from recbole_llm.errors import ConfigError, RecboleLlmError
from recbole_llm.process_session import end_session

logger = logging.getLogger(__name__)

FEATURES_DAG = "nightly_features"
RECOMMENDATIONS_DAG = "nightly_recommendations"
DAGS = (FEATURES_DAG, RECOMMENDATIONS_DAG, "weekly_training", "retention")
ALERTS_CONNECTION = "AIRFLOW_CONN_NIGHT_ALERTS"
USER = "admin"
UNFINISHED_STATES = (
    "queued", "scheduled", "running", "restarting", "deferred", "up_for_retry", "up_for_reschedule",
)  # fmt: skip
POLL_S = 0.3
STOP_GRACE_S = 10.0
LOG_TAIL_LINES = 20


class LocalAirflow:
    """One ``airflow standalone``; its page and API answer on this machine only.

    Args:
        home: the project's folder, with ``dags/`` and ``spark_jobs/``.
        warehouse: root of the warehouse; one Airflow at a time can run on it.
        venv_airflow: the virtual environment that Airflow is installed in.
        port: where its page and API are served.
        scheduled: let the DAGs' schedules start runs. Otherwise only what is asked for runs, and no
            night that happens to be due takes its place.
        env: environment variables for Airflow and its tasks. They win over those set here: another
            ``AIRFLOW_CONN_SPARK_DEFAULT`` sends the jobs to a cluster.
        start_timeout_s: how long Airflow may take until it is ready.
    """

    def __init__(
        self,
        home: Path,
        warehouse: Path,
        venv_airflow: Path,
        *,
        port: int = 8080,
        scheduled: bool = False,
        env: Mapping[str, str] | None = None,
        start_timeout_s: float = 180.0,
    ) -> None:
        self.home = home.absolute()
        self.warehouse = warehouse.absolute()
        self.venv_airflow = venv_airflow.absolute()
        self.folder = self.warehouse / "airflow"
        self.log = self.folder / "standalone.log"
        self.database = self.folder / "airflow.db"
        self.passwords = self.folder / "simple_auth_manager_passwords.json.generated"
        self.port = port
        self.scheduled = scheduled
        self.url = f"http://127.0.0.1:{port}"
        self.start_timeout_s = start_timeout_s
        self._extra_env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._client: AirflowClient | None = None

    @property
    def client(self) -> AirflowClient:
        """The REST API of the running Airflow."""
        if self._client is None:
            raise RecboleLlmError("this Airflow is not running: call start() first")
        return self._client

    def start(self) -> None:
        """Start Airflow and return when it can run a night.

        Runs that an earlier, killed Airflow of this warehouse left unfinished are marked as failed.

        Raises:
            ConfigError: no Airflow is installed, the port is taken, or an Airflow of this warehouse
                runs already. Nothing was started.
            RecboleLlmError: Airflow ended or was not ready in time, or a DAG cannot be imported.
        """
        command = self.venv_airflow / "bin" / "airflow"
        if not command.is_file():
            raise ConfigError(f"no Airflow in {self.venv_airflow}: run 'make setup'")
        self._take_lock()
        try:
            _check_port(self.port)
            self._fail_leftovers()
            started = time.monotonic()
            began = datetime.datetime.now(datetime.UTC)
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [command, "standalone"],
                    cwd=self.folder,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Its own session: Ctrl-C reaches this process only, which then stops the rest.
                    start_new_session=True,
                    # The lock is held as long as one of the two lives.
                    pass_fds=[self._lock.fileno()] if self._lock else [],
                )
            self._note_in_lock(self._process.pid)
            self._wait_until_ready(began)
            pools = json.loads((self.home / "dags" / "pools.json").read_text())
            for name, settings in pools.items():
                self.client.set_pool(name, settings)
        except BaseException:
            self.stop()
            raise
        logger.info("Airflow is ready at %s after %.1f s", self.url, time.monotonic() - started)

    def stop(self) -> None:
        """End Airflow and every task it still runs; harmless when nothing runs."""
        if self._process is not None:
            end_session(self._process.pid, STOP_GRACE_S, self._process.poll)
            self._process = None
        self._client = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check_alive(self) -> None:
        """Raise if Airflow has ended by itself.

        Raises:
            RecboleLlmError: with the end of Airflow's log.
        """
        if self._process is None or self._process.poll() is not None:
            raise RecboleLlmError(f"Airflow has ended; {self._log_tail()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _take_lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # it holds Airflow's password
        self._lock = (self.folder / "lock").open("a+")
        try:
            if not self._try_lock():
                self._end_orphan()
        except ConfigError:
            self._lock.close()
            self._lock = None
            raise

    def _try_lock(self) -> bool:
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _end_orphan(self) -> None:
        """End an Airflow whose starter was killed and could not stop it; take its lock.

        Raises:
            ConfigError: its starter lives.
        """
        assert self._lock is not None
        self._lock.seek(0)
        text = self._lock.read()
        note = json.loads(text) if text else {}
        if note and not Path(f"/proc/{note['starter']}").exists():
            logger.warning("ending the Airflow at %s: whoever started it is gone", note["url"])
            end_session(note["airflow"], STOP_GRACE_S)
            if self._try_lock():
                return
        where = f" at {note['url']}, process {note['airflow']}" if note else ""
        raise ConfigError(f"an Airflow of {self.warehouse} runs already{where}: stop it first")

    def _note_in_lock(self, airflow_pid: int) -> None:
        assert self._lock is not None
        self._lock.truncate(0)
        json.dump({"url": self.url, "airflow": airflow_pid, "starter": os.getpid()}, self._lock)
        self._lock.flush()

    def _fail_leftovers(self) -> None:
        """Mark as failed what a killed Airflow left unfinished.

        A new run would wait for an old one, and a task that nobody runs any more would hold the
        pool's only slot. By REST this would race with the scheduler, which takes up old runs as
        soon as it starts; so it is done before, in the database that nobody else has open.
        """
        if not self.database.is_file():
            return
        states = ", ".join(f"'{state}'" for state in UNFINISHED_STATES)
        with contextlib.closing(sqlite3.connect(self.database, timeout=60)) as database, database:
            # A first start that was cut off may have made no tables yet.
            made = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            for table in sorted(made & {"dag_run", "task_instance"}):
                found = database.execute(
                    f"UPDATE {table} SET state = 'failed' WHERE state IN ({states})"
                ).rowcount
                if found:
                    logger.warning("%d unfinished rows of %s marked as failed", found, table)

    def _environment(self) -> dict[str, str]:
        # Settings of another Airflow, and modules of this environment, must not leak in.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name == ALERTS_CONNECTION
            or (not name.startswith("AIRFLOW") and name not in {"PYTHONPATH", "PYTHONHOME"})
        }
        spark = {
            "conn_type": "spark",
            "host": "local[2]",
            "extra": {"deploy-mode": "client", "spark-binary": "spark-submit"},
        }
        venv = Path(self._extra_env.get("RECBOLE_LLM_VENV", self.home / ".venv"))
        # standalone starts its parts as "airflow", and the Spark operator "spark-submit", from PATH
        path = [self.venv_airflow / "bin", inherited.get("PATH", os.defpath), venv / "bin"]
        no_proxy = ",".join(filter(None, [inherited.get("NO_PROXY"), "127.0.0.1", "localhost"]))
        return {
            **inherited,
            "PATH": os.pathsep.join(map(str, path)),
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "NO_COLOR": "1",
            "RECBOLE_LLM_HOME": str(self.home),
            "RECBOLE_LLM_WAREHOUSE": str(self.warehouse),
            "RECBOLE_LLM_VENV": str(venv),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps(spark),
            # SQLite gives up on a lock after 5 s by default; a starting scheduler holds it longer.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.database}?timeout=60",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            # Each slot is a process of 130 MB; a night runs one task at a time.
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            # Any free port, so that two Airflows do not clash. These servers listen on every
            # interface, and answer only to a token signed with the secret below.
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "0",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "0",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
            # Sleeps between two looks of the scheduler: it is most of what a short task waits for.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            # Runs that an asset starts do not count: a night's second half is made all the same.
            "AIRFLOW__SCHEDULER__MAX_DAGRUNS_TO_CREATE_PER_LOOP": "10" if self.scheduled else "0",
            **self._extra_env,
        }

    def _wait_until_ready(self, began: datetime.datetime) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        missing = "its API does not answer"
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                if self._client is None:
                    password = json.loads(self.passwords.read_text())[USER]
                    self._client = AirflowClient(self.url, USER, password)
                missing = self._not_ready(began)
                if not missing:
                    return
            except (FileNotFoundError, json.JSONDecodeError, urllib.error.URLError, TimeoutError):
                pass
            time.sleep(POLL_S)
        raise RecboleLlmError(
            f"Airflow is not ready after {self.start_timeout_s:.0f} s: {missing};"
            f" {self._log_tail()}"
        )

    def _not_ready(self, began: datetime.datetime) -> str:
        """What Airflow still lacks; empty when nothing. Old heartbeats and parses do not count."""
        scheduler = self.client.call("GET", "/monitor/health")["scheduler"]
        if not _since(scheduler["latest_scheduler_heartbeat"], began):
            return "its scheduler does not run"
        for error in self.client.call("GET", "/importErrors")["import_errors"]:
            if _since(error["timestamp"], began):
                raise ConfigError(
                    f"{error['filename']} cannot be imported:\n{error['stack_trace']}"
                )
        dags = self.client.call("GET", "/dags?limit=100")["dags"]
        parsed = {dag["dag_id"] for dag in dags if _since(dag["last_parsed_time"], began)}
        absent = [dag_id for dag_id in DAGS if dag_id not in parsed]
        return f"no DAG {', '.join(absent)} in {self.home / 'dags'}" if absent else ""

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n  ".join([f"{self.log} ends with:", *lines])


def run_night(airflow: LocalAirflow, day: str, timeout_s: float = 6 * 3600.0) -> None:
    """Run both halves of a day's night and return when its table is published.

    Args:
        airflow: a started Airflow.
        day: ``YYYY-MM-DD``.
        timeout_s: how long each half may take.
    Raises:
        RecboleLlmError: a task failed; the message names it and holds the end of its log.
    """
    client = airflow.client
    started = time.monotonic()
    # Asset events do not reach a paused DAG.
    client.pause(RECOMMENDATIONS_DAG, False)
    client.pause(FEATURES_DAG, False)
    features_run = client.trigger(FEATURES_DAG, day)
    client.wait(FEATURES_DAG, features_run, timeout_s)
    run = client.caused_run(RECOMMENDATIONS_DAG, features_run, day, timeout_s)
    client.wait(RECOMMENDATIONS_DAG, run, timeout_s)
    logger.info("night of %s is published after %.1f s", day, time.monotonic() - started)


def run_backfill(
    airflow: LocalAirflow, first_day: str, last_day: str, timeout_s: float = 24 * 3600.0
) -> None:
    """Run the nights of a range of days by Airflow's own backfill, those that ran before too.

    The features are backfilled, oldest day first; each day's recommendations follow by their asset.

    Args:
        airflow: a started Airflow.
        first_day, last_day: ``YYYY-MM-DD``, both inclusive.
        timeout_s: how long each day may take, the days before it included.
    Raises:
        RecboleLlmError: a task failed; the message names it and holds the end of its log.
    """
    client = airflow.client
    client.pause(RECOMMENDATIONS_DAG, False)
    client.pause(FEATURES_DAG, False)
    for day, features_run in client.backfill(FEATURES_DAG, first_day, last_day).items():
        client.wait(FEATURES_DAG, features_run, timeout_s)
        run = client.caused_run(RECOMMENDATIONS_DAG, features_run, day, timeout_s)
        client.wait(RECOMMENDATIONS_DAG, run, timeout_s)


def serve(airflow: LocalAirflow) -> None:
    """Let the schedules run until Airflow ends or this process is interrupted.

    Args:
        airflow: a started Airflow, made with ``scheduled=True``.
    Raises:
        RecboleLlmError: Airflow ended by itself.
    """
    if not airflow.scheduled:
        raise ConfigError("serve() needs LocalAirflow(…, scheduled=True)")
    for dag_id in DAGS:
        airflow.client.pause(dag_id, False)
    logger.info("user %s, password in %s; Ctrl-C stops Airflow", USER, airflow.passwords)
    while True:
        airflow.check_alive()
        time.sleep(1.0)


def _since(moment: str | None, began: datetime.datetime) -> bool:
    return moment is not None and datetime.datetime.fromisoformat(moment) >= began


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used ({error.strerror}): choose another for Airflow"
            ) from None
