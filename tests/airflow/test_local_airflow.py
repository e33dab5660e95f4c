"""Nights of the small warehouse through a real Airflow, started, interrupted and stopped."""

import contextlib
import json
import logging
import os
import socket
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.backfill import compare_days
from recbole_llm.airflow_local import (
    FEATURES_DAG,
    RECOMMENDATIONS_DAG,
    USER,
    LocalAirflow,
    run_backfill,
    run_night,
)
from recbole_llm.errors import ConfigError, RecboleLlmError
from recbole_llm.warehouse import Warehouse
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.browser import CHROMIUM
from tests.conftest import HOME, make_night_config, make_small_warehouse, night_runner

FIRST_DAY = "2024-05-01"
DAY = "2024-05-02"
OTHER_DAY = "2024-05-03"
VENV_AIRFLOW = HOME / ".venv-airflow"
NIGHT_TIMEOUT_S = 400.0
needs_airflow = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.spark]


@dataclass
class Place:
    """An Airflow that runs on a small warehouse."""

    airflow: LocalAirflow
    warehouse: Warehouse
    config: Path
    left_by_stop: list[str]
    """Processes that outlived the stop in the middle of a task."""
    posts: "Posts"

    def wait_for_alert(self, text: str) -> dict[str, Any]:
        """The alert of this text, as it was posted."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := [each for _, each in self.posts.received if each["text"] == text]:
                return found[-1]
            time.sleep(0.2)
        raise AssertionError(f"not posted within a minute: {text}; but {self.posts.received}")


@dataclass
class Posts:
    """A server that keeps what is posted to it."""

    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Path and JSON."""

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Its address, while it serves."""
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Started, stopped in the middle of a Spark job, and started again."""
    folder = tmp_path_factory.mktemp("airflow")
    config = make_night_config(folder)
    warehouse = Warehouse(make_small_warehouse(folder / "warehouse"))
    posts = Posts()
    with posts.serve() as address:
        airflow = LocalAirflow(
            HOME,
            warehouse.root,
            VENV_AIRFLOW,
            port=_free_port(),
            env={
                "RECBOLE_LLM_CONFIG": str(config),
                "AIRFLOW_CONN_NIGHT_ALERTS": json.dumps(
                    {"conn_type": "http", "host": f"{address}/hook", "password": "secret-part"}
                ),
            },
        )
        with airflow:
            leader = _leader(airflow)
            airflow.client.pause(FEATURES_DAG, False)
            airflow.client.trigger(FEATURES_DAG, OTHER_DAY)
            deadline = time.monotonic() + 60
            while not (started := _processes(warehouse.root)) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert started, "no Spark job was started within a minute"
        left = _processes(warehouse.root, leader)
        with airflow:
            yield Place(airflow, warehouse, config, left, posts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _leader(airflow: LocalAirflow) -> int:
    """Process id, and so session id, of ``airflow standalone``."""
    return int(json.loads((airflow.folder / "lock").read_text())["airflow"])


def _processes(warehouse: Path, session: int = -1) -> list[str]:
    """Command lines of live processes that were given the warehouse's path, or of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        is_ours = int(stat[3]) == session or f"--warehouse {warehouse} " in command
        if stat[0] != "Z" and is_ours:
            found.append(command)
    return found


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    """A page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root has no sandbox; the only address it opens is this machine's own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 760}, locale="en-GB")
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def _trigger_in_the_form(place: Place, picture: Path) -> str:
    """What a person does: log in, choose a day, see its run succeed; the run's id."""
    with _browser() as page:
        page.goto(f"{place.airflow.url}/dags/{FEATURES_DAG}")
        page.fill("input[name=username]", USER)
        page.fill("input[name=password]", json.loads(place.airflow.passwords.read_text())[USER])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Trigger").first.click()
        form = page.get_by_role("dialog").filter(has_text="Run Parameters")
        form.locator("input[type=date]").fill(DAY)
        form.get_by_role("button", name="Trigger").click()
        page.wait_for_url("**/runs/manual__*")
        address: str = page.url
        page.goto("about:blank")  # an open page asks and draws all the time
        run = urllib.parse.unquote(address.rpartition("/")[2])
        place.airflow.client.wait(FEATURES_DAG, run, NIGHT_TIMEOUT_S)
        page.goto(address)
        badge = page.get_by_test_id("header-card").get_by_test_id("state-badge")
        badge.filter(has_text="Success").wait_for()
        page.screenshot(path=picture)
    return run


class TestOnARunningAirflow:
    """These share one Airflow; each leaves the settings as it found them."""

    pytestmark = needs_airflow

    def test_stop_ends_everything(self, place: Place) -> None:
        assert place.left_by_stop == []

    def test_a_backfill_gives_what_the_nights_give(
        self,
        place: Place,
        spark: Any,
        prepared_warehouse: Path,
        small_night_config: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO, logger="recbole_llm")
        run_backfill(place.airflow, FIRST_DAY, DAY, NIGHT_TIMEOUT_S)
        ended = [r.getMessage().split(" after ")[0] for r in caplog.records]
        done = [line for line in ended if line.endswith(": success")]
        assert sorted(done) == sorted(  # the last two of a day run beside each other
            f"{day} {task}: success"
            for day in (FIRST_DAY, DAY)
            for task in (
                "prepare_features", "ensure_champion", "score_users", "publish", "sync_sinks",
                "measure_night",
            )
        )  # fmt: skip
        published = place.warehouse.published_run(DAY)["run_id"]
        assert f"run <b>{published}</b>" in place.warehouse.report(DAY).read_text()
        run = night_runner(spark, prepared_warehouse, small_night_config)
        for day in (FIRST_DAY, DAY):
            run(day, steps=(score, publish))
        rows, differing = compare_days(
            Warehouse(prepared_warehouse), place.warehouse, [FIRST_DAY, DAY]
        )
        assert differing == []
        assert rows["recommendations"] == 66  # on both days 11 users, 3 items each
        assert [name for name, n in rows.items() if not n] == ["opinions"]  # none were said

    def test_a_failing_job_is_told_and_not_tried_again(self, place: Place) -> None:
        text = place.config.read_text()
        place.config.write_text(text + "surprise: 1\n")
        try:
            with pytest.raises(RecboleLlmError) as failure:
                run_night(place.airflow, OTHER_DAY, NIGHT_TIMEOUT_S)
        finally:
            place.config.write_text(text)
        first, *log = str(failure.value).splitlines()
        assert first == (
            f"task prepare_features of nightly_features failed for {OTHER_DAY} (try 1 of 3);"
            " its log ends with:"
        )
        assert "unknown keys ['surprise']" in log[-1]
        alert = place.wait_for_alert(
            f"prepare_features of nightly_features failed for {OTHER_DAY}: exit code 2, bad settings"
        )
        assert {path for path, _ in place.posts.received} == {"/hook/secret-part"}
        lines = (place.warehouse.root / "alerts.jsonl").read_text().splitlines()
        assert json.loads(lines[-1]) == alert
        for log_file in place.airflow.folder.rglob("*.log"):
            assert "secret-part" not in log_file.read_text(errors="replace")

    def test_a_late_run_is_told(self, place: Place) -> None:
        """Its deadline is put into the past; nobody waits three hours for a test."""
        client = place.airflow.client
        client.pause(FEATURES_DAG, True)
        run_id = client.trigger(FEATURES_DAG, OTHER_DAY)
        try:
            database = sqlite3.connect(place.airflow.database, timeout=60)
            with contextlib.closing(database), database:
                changed = database.execute(
                    "UPDATE deadline SET deadline_time = '2024-05-04 05:00:00.000000' WHERE dagrun_id ="
                    " (SELECT id FROM dag_run WHERE run_id = ?)", [run_id],
                )  # fmt: skip
                assert changed.rowcount == 1
            place.wait_for_alert(
                f"nightly_features for {OTHER_DAY} was due at 2024-05-04 05:00:00+00:00 and is queued"
            )
        finally:
            client.fail(FEATURES_DAG, run_id)
            client.pause(FEATURES_DAG, False)

    def test_a_day_is_checked_before_a_run_is_made(self, place: Place) -> None:
        for day in ("2024-5-1", "20240501", "tomorrow", 5):
            with pytest.raises(RecboleLlmError, match="with 400: .*Invalid input for param ds"):
                place.airflow.client.call(
                    "POST", f"/dags/{FEATURES_DAG}/dagRuns",
                    {"logical_date": None, "conf": {"ds": day}},
                )  # fmt: skip

    def test_a_night_that_fails_its_audit_leaves_the_day_as_it_was(
        self, place: Place, tmp_path: Path
    ) -> None:
        """Started from Airflow's form where there is a browser, as a person does it."""
        client, warehouse = place.airflow.client, place.warehouse
        table, features = warehouse.published_run(DAY), warehouse.features_manifest(DAY)
        text = place.config.read_text()
        place.config.write_text(text.replace("max_fallback_share: 0.5 ", "max_fallback_share: 0 "))
        assert place.config.read_text() != text
        try:
            if CHROMIUM:
                features_run = _trigger_in_the_form(
                    place, Path(os.environ.get("AIRFLOW_SCREENSHOT") or tmp_path / "airflow.png")
                )
            else:
                features_run = client.trigger(FEATURES_DAG, DAY)
                client.wait(FEATURES_DAG, features_run, NIGHT_TIMEOUT_S)
            run = client.caused_run(RECOMMENDATIONS_DAG, features_run, DAY, 60.0)
            with pytest.raises(RecboleLlmError) as failure:
                client.wait(RECOMMENDATIONS_DAG, run, NIGHT_TIMEOUT_S)
        finally:
            place.config.write_text(text)
        first, *log = str(failure.value).splitlines()
        assert first.startswith(
            f"task publish of nightly_recommendations failed for {DAY} (try 1 of 3)"
        )
        assert "AuditError" in log[-1]
        prepared = warehouse.features_manifest(DAY)
        assert prepared["attempt"] != features["attempt"]
        assert prepared["fingerprint"] == features["fingerprint"]
        assert warehouse.published_run(DAY) == table

    def test_a_warehouse_has_one_airflow(self, place: Place) -> None:
        other = LocalAirflow(HOME, place.warehouse.root, VENV_AIRFLOW, port=_free_port())
        with pytest.raises(ConfigError) as failure:
            other.start()
        assert str(failure.value) == (
            f"an Airflow of {place.warehouse.root} runs already at {place.airflow.url},"
            f" process {_leader(place.airflow)}: stop it first"
        )
        place.airflow.check_alive()


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "airflow").write_text("#!/bin/sh\ntouch started\n")
    (venv / "bin" / "airflow").chmod(0o755)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        airflow = LocalAirflow(HOME, tmp_path / "warehouse", venv, port=port)
        with pytest.raises(ConfigError, match=rf"port {port} cannot be used \(Address already in"):
            airflow.start()
    assert os.listdir(airflow.folder) == ["lock"]


def test_a_missing_environment_is_told(tmp_path: Path) -> None:
    airflow = LocalAirflow(HOME, tmp_path / "warehouse", tmp_path / "venv")
    with pytest.raises(ConfigError) as failure:
        airflow.start()
    assert str(failure.value) == f"no Airflow in {tmp_path}/venv: run 'make setup'"
    assert not (tmp_path / "warehouse").exists()


def test_an_airflow_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "airflow").write_text("#!/bin/sh\necho the database is broken\nexit 1\n")
    (venv / "bin" / "airflow").chmod(0o755)
    airflow = LocalAirflow(HOME, tmp_path / "warehouse", venv, port=_free_port())
    with pytest.raises(RecboleLlmError) as failure:
        airflow.start()
    assert str(failure.value).splitlines() == [
        f"Airflow has ended; {airflow.log} ends with:",
        "  the database is broken",
    ]
