"""Other accidents: a full disk, a lost executor, two runs of a day at once, a newer pointer."""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import psutil

from benchmarks.faults.kills import STEPS, compare, describe, run_nights
from benchmarks.faults.processes import JOBS, JobProcess
from benchmarks.faults.reader import reading
from benchmarks.faults.tables import check_published, find_leftovers
from benchmarks.faults.world import World, make_world
from recbole_llm.warehouse import Warehouse
from spark_jobs.config import load_night_config
from spark_jobs.job import Job, start_spark

CLUSTER = "local-cluster[2,1,1024]"
_DISK_MIB = 64
_ROOM_KIB = (0, 40)
"""What is left of the disk: nothing, or enough for part of a job's files."""


@dataclass(frozen=True)
class Ground:
    """Where a case is played: two nights, the first of them published."""

    world: World
    scratch: Path
    """For logs."""
    run: Callable[[str], None]
    """Runs a job of the second night in this process, undisturbed."""

    @property
    def day(self) -> str:
        """The second night."""
        return self.world.days[1]

    def start(self, job: str, master: str = "local[2]") -> JobProcess:
        """Start a job of the second night."""
        number = len(list(self.scratch.glob("*.log")))
        return JobProcess(self.world, job, self.day, self.scratch / f"{number}.log", master)


def run_cases(cases: list[str], root: Path, save: Callable[[str, dict[str, Any]], None]) -> None:
    """Disturb the second of two nights in several ways, each from the same first night.

    Args:
        save: is told each case and what came of it: what was done; ``reads`` and ``faults`` of the
            reader; ``mismatches`` and ``leftovers`` against an undisturbed night.
    """
    truth = make_world(root / "truth", 2)
    config = load_night_config(truth.config)
    with start_spark("undisturbed", config) as spark:
        run_nights(truth, truth.days[:1], spark)
        shutil.copytree(truth.warehouse.root, root / "first")  # times too, which digests hold
        run_nights(truth, truth.days[1:], spark)
        expected = describe(truth)
        for case in cases:
            with _place(case, root / case) as place:
                if place is None:
                    save(case, {"skipped": "a small disk can be mounted by root alone"})
                    continue
                shutil.copytree(root / "first", place / "warehouse")
                world = replace(truth, warehouse=Warehouse(place / "warehouse"))

                def run(job: str, world: World = world) -> None:
                    STEPS[job](Job(spark, world.warehouse, config, world.days[1]))

                save(case, _play(case, Ground(world, root, run), expected))


def _play(case: str, ground: Ground, expected: dict[str, Any]) -> dict[str, Any]:
    warehouse, digests = ground.world.warehouse, expected["digests"]
    # A reader of this version refuses a newer pointer, as the jobs do.
    reader = nullcontext({}) if case == "pointer" else reading(warehouse, digests)
    with reader as seen:
        done = _CASES[case](ground)
    with duckdb.connect() as database:
        found = check_published(database, warehouse, digests)
    was_named = {ground.day: done.pop("was_named", None)}
    return {
        **done,
        "reads": seen.get("reads", 0),
        "faults": seen.get("faults", []) + found,
        "mismatches": compare(expected, describe(ground.world)),
        "leftovers": find_leftovers(warehouse, was_named),
    }


@contextmanager
def _place(case: str, place: Path) -> Iterator[Path | None]:
    """Where the world lies: on a disk of its own where it shall fill up."""
    place.mkdir()
    if case != "disk":
        yield place
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill_the_disk(ground: Ground) -> dict[str, Any]:
    """Run each job on a disk that is full, or nearly, and then on one with room."""
    ballast = ground.world.warehouse.root.parent / "ballast"
    tries: list[dict[str, Any]] = []
    for job in JOBS:
        for room_kib in _ROOM_KIB:
            free = shutil.disk_usage(ballast.parent).free
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(free - room_kib * 1024, 1))
            process = ground.start(job)
            code = process.wait()
            tries.append({
                "job": job, "room_kib": room_kib, "exit_code": code,
                "no_space_told": "No space left on device" in process.log.read_text(),
            })  # fmt: skip
            ballast.unlink()
            if code == 0:
                break
        else:
            ground.run(job)
    return {"tries": tries}


def _lose_an_executor(ground: Ground) -> dict[str, Any]:
    """Kill one of two executors in the middle of each job."""
    random_, lost = random.Random(1), []
    for job in JOBS:
        process = ground.start(job, CLUSTER)
        executors: list[psutil.Process] = []
        while process.is_running() and len(executors) < 2:
            time.sleep(0.1)
            executors = [
                each for each in process.processes()["jvm"]
                if "CoarseGrainedExecutorBackend" in " ".join(_words(each))
            ]  # fmt: skip
        time.sleep(2 + 4 * random_.random())
        was_running = process.is_running()
        if was_running:
            random_.choice(executors).kill()
        lost.append({"job": job, "lost_while_running": was_running, "exit_code": process.wait()})
    return {"lost": lost}


def _run_twice_at_once(ground: Ground) -> dict[str, Any]:
    """Start each job twice at the same time."""
    codes = []
    was_named = None
    for job in JOBS:
        pair = [ground.start(job), ground.start(job)]
        if job == "prepare_features":
            while was_named is None and (pair[0].is_running() or pair[1].is_running()):
                was_named = _attempt(ground)
                time.sleep(0.01)
        codes += [process.wait() for process in pair]
    return {"exit_codes": codes, "was_named": was_named}


def _meet_a_newer_pointer(ground: Ground) -> dict[str, Any]:
    """Run each job where a newer version has moved the pointer, and then as usual."""
    pointer = ground.world.warehouse.published
    own, newer = pointer.read_bytes(), json.dumps({"format_version": 99, "tables": {}}).encode()
    refusals = []
    for job in JOBS:
        pointer.write_bytes(newer)
        process = ground.start(job)
        refusals.append({
            "job": job, "exit_code": process.wait(),
            "told": "has format 99, this version reads" in process.log.read_text(),
            "untouched": pointer.read_bytes() == newer,
        })  # fmt: skip
        pointer.write_bytes(own)
        ground.run(job)
    return {"refusals": refusals}


_CASES = {
    "disk": _fill_the_disk,
    "executor": _lose_an_executor,
    "twice": _run_twice_at_once,
    "pointer": _meet_a_newer_pointer,
}
CASES = tuple(_CASES)


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        words = []
    return words


def _attempt(ground: Ground) -> str | None:
    path = ground.world.warehouse.features(ground.day) / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["attempt"] if path.is_file() else None
