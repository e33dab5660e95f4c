"""Jobs that wait for one another, and for files that change under all of them."""

import logging
import time
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import pytest
from filelock import FileLock, Timeout

from recbole_llm.errors import UnavailableError
from recbole_llm.locks import TRAINING, no_job, one_job_on
from recbole_llm.warehouse import Warehouse

DAY, LATER = "2024-05-02", "2024-06-01"


def _append(root: Path, name: str, path: Path) -> None:
    with one_job_on(Warehouse(root), DAY):
        for _ in range(50):
            with path.open("a") as file:
                file.write(name)


def test_two_jobs_of_a_day_run_one_after_the_other(tmp_path: Path) -> None:
    context, path = get_context("spawn"), tmp_path / "trace"
    jobs = [context.Process(target=_append, args=(tmp_path, name, path)) for name in "ab"]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert path.read_text() in ("a" * 50 + "b" * 50, "b" * 50 + "a" * 50)


def test_a_dead_jobs_lock_is_free_and_days_do_not_wait_for_one_another(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    context = get_context("spawn")
    job = context.Process(target=_hold, args=(tmp_path,))
    job.start()
    while not (tmp_path / "held").exists():
        job.join(0.01)
    lock = FileLock(warehouse.locks / f"{DAY}.lock")
    with one_job_on(warehouse, LATER), pytest.raises(Timeout):
        lock.acquire(blocking=False)  # the day is held, and the later one was not
    job.kill()
    job.join()
    with one_job_on(warehouse, DAY), pytest.raises(Timeout):
        lock.acquire(blocking=False)  # it was free, and is held again


def _hold(root: Path) -> None:
    with one_job_on(Warehouse(root), DAY):
        (root / "held").touch()
        while True:
            time.sleep(1)


def test_nobody_begins_while_files_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A day of which there has been no job before, too."""
    warehouse, events = Warehouse(tmp_path), []

    def work() -> None:
        with one_job_on(warehouse, LATER):
            events.append("a job")

    job = Thread(target=work)
    with caplog.at_level(logging.INFO), no_job(warehouse):
        job.start()
        while "files of" not in caplog.text:
            time.sleep(0.01)
        events.append("files changed")
    job.join()
    assert events == ["files changed", "a job"]


def test_files_do_not_change_under_a_job(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for what in (DAY, TRAINING):
        with (
            one_job_on(warehouse, what),
            pytest.raises(UnavailableError, match=f"a job works on {what}; try again"),
            no_job(warehouse),
        ):
            raise AssertionError("it did")
        with no_job(warehouse), pytest.raises(Timeout):
            FileLock(warehouse.locks / f"{what}.lock").acquire(blocking=False)
