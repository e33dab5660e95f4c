"""Nights of the small warehouse through a real Airflow, started, interrupted and stopped."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from recbole_llm.airflow_local import FEATURES_DAG, LocalAirflow, run_night
from recbole_llm.errors import ConfigError, RecboleLlmError
from recbole_llm.warehouse import Warehouse
from tests.conftest import HOME, make_night_config, make_small_warehouse

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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Started, stopped in the middle of a Spark job, and started again."""
    folder = tmp_path_factory.mktemp("airflow")
    config = make_night_config(folder)
    warehouse = Warehouse(make_small_warehouse(folder / "warehouse"))
    airflow = LocalAirflow(
        HOME,
        warehouse.root,
        VENV_AIRFLOW,
        port=_free_port(),
        env={"RECBOLE_LLM_CONFIG": str(config)},
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
        yield Place(airflow, warehouse, config, left)


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


def _count_rows(warehouse: Warehouse, day: str) -> int:
    path = warehouse.root / warehouse.published_run(day)["path"]
    with duckdb.connect() as database:
        row = database.execute(f"SELECT count(*) FROM '{path}/*.parquet'").fetchone()
    assert row is not None
    return int(row[0])


class TestOnARunningAirflow:
    """These share one Airflow; each leaves the settings as it found them."""

    pytestmark = needs_airflow

    def test_stop_ends_everything(self, place: Place) -> None:
        assert place.left_by_stop == []

    def test_a_night_is_published_and_can_be_run_again(
        self, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="recbole_llm")
        run_night(place.airflow, DAY, NIGHT_TIMEOUT_S)
        first = place.warehouse.published_run(DAY)
        assert _count_rows(place.warehouse, DAY) == 33  # 11 users, 3 items each
        ended = [r.getMessage().split(" after ")[0] for r in caplog.records]
        assert [line for line in ended if line.endswith(": success")] == [
            f"{DAY} {task}: success"
            for task in (
                "prepare_features", "ensure_champion", "score_users", "publish", "measure_night",
            )
        ]  # fmt: skip
        assert f"run {first['run_id']}" in place.warehouse.report(DAY).read_text().replace(
            "<b>", ""
        )
        run_night(place.airflow, DAY, NIGHT_TIMEOUT_S)
        second = place.warehouse.published_run(DAY)
        assert second["path"] != first["path"]
        assert _count_rows(place.warehouse, DAY) == 33

    def test_a_failing_job_is_named_and_not_tried_again(self, place: Place) -> None:
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

    def test_a_failed_audit_keeps_the_day_unpublished(self, place: Place) -> None:
        text = place.config.read_text()
        place.config.write_text(text.replace("max_fallback_share: 0.5 ", "max_fallback_share: 0 "))
        assert place.config.read_text() != text
        try:
            with pytest.raises(RecboleLlmError) as failure:
                run_night(place.airflow, OTHER_DAY, NIGHT_TIMEOUT_S)
        finally:
            place.config.write_text(text)
        first, *log = str(failure.value).splitlines()
        assert first.startswith(
            f"task publish of nightly_recommendations failed for {OTHER_DAY} (try 1 of 3)"
        )
        assert "AuditError" in log[-1]
        assert OTHER_DAY not in place.warehouse.published_days()

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
