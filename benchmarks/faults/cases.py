"""Other accidents: a full disk, a lost executor, two runs of a day at once, a newer pointer."""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import duckdb
import psutil

from benchmarks.faults.kills import compare, describe, run_undisturbed
from benchmarks.faults.processes import JOBS, JobProcess
from benchmarks.faults.reader import reading
from benchmarks.faults.tables import check_published, find_leftovers
from benchmarks.faults.world import World, make_world
from recbole_llm.warehouse import replace_json

CLUSTER = "local-cluster[2,1,1024]"
N_DAYS = 2
_DISK_MIB = 64
_ROOM_KIB = (0, 24, 120, 400)
"""What is left of the disk, from nothing to enough for part of a job's files."""


def run_case(case: str, root: Path) -> dict[str, Any]:
    """Disturb the second of two nights in one way.

    Returns:
        What was done; ``reads`` and ``faults`` of the reader; ``mismatches`` and ``leftovers`` against
        an undisturbed run.
    """
    truth = run_undisturbed(root / "undisturbed", N_DAYS)
    with _place(case, root) as place:
        if place is None:
            return {"skipped": "a small disk can be mounted by root alone"}
        world = make_world(place, N_DAYS)
        for job in JOBS:
            _must(JobProcess(world, job, world.days[0], root / "first.log"))
        # A reader of this version refuses a newer pointer, as the jobs do.
        reader = (
            nullcontext({}) if case == "pointer" else reading(world.warehouse, truth["digests"])
        )
        with reader as seen:
            done = _CASES[case](world, root)
        with duckdb.connect() as database:
            found = check_published(database, world.warehouse, truth["digests"])
        was_named = done.pop("was_named", {})
        return {
            **done,
            "reads": seen.get("reads", 0),
            "faults": seen.get("faults", []) + found,
            "mismatches": compare(truth, describe(world)),
            "leftovers": find_leftovers(world.warehouse, was_named),
        }


@contextmanager
def _place(case: str, root: Path) -> Iterator[Path | None]:
    """Where the world lies: on a disk of its own where it shall fill up."""
    place = root / "world"
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


def _fill_the_disk(world: World, root: Path) -> dict[str, Any]:
    """Run each job on a disk that is full, or nearly, and then on one with room."""
    day, ballast = world.days[1], world.warehouse.root.parent / "ballast"
    tries: list[dict[str, Any]] = []
    for job in JOBS:
        for room_kib in _ROOM_KIB:
            free = shutil.disk_usage(ballast.parent).free
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(free - room_kib * 1024, 1))
            process = JobProcess(world, job, day, root / "disk.log")
            code = process.wait()
            tries.append({
                "job": job, "room_kib": room_kib, "exit_code": code,
                "no_space_told": "No space left on device" in process.log.read_text(),
            })  # fmt: skip
            ballast.unlink()
            if code == 0:
                break
        else:
            _must(JobProcess(world, job, day, root / "retry.log"))
    return {"tries": tries}


def _lose_an_executor(world: World, root: Path) -> dict[str, Any]:
    """Kill one of two executors in the middle of each job."""
    random_, day, lost = random.Random(1), world.days[1], []
    for job in JOBS:
        process = JobProcess(world, job, day, root / f"{job}.log", CLUSTER)
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
    return {"lost": lost, "exit_codes": [each["exit_code"] for each in lost]}


def _run_twice_at_once(world: World, root: Path) -> dict[str, Any]:
    """Start each job twice at the same time."""
    codes = []
    was_named = None
    for job in JOBS:
        pair = [JobProcess(world, job, world.days[1], root / f"{n}.log") for n in range(2)]
        if job == "prepare_features":
            while was_named is None and pair[0].is_running() | pair[1].is_running():
                was_named = _attempt(world)
                time.sleep(0.01)
        codes += [process.wait() for process in pair]
    return {"exit_codes": codes, "was_named": {world.days[1]: was_named}}


def _meet_a_newer_pointer(world: World, root: Path) -> dict[str, Any]:
    """Run each job where a newer version has moved the pointer, and then as usual."""
    pointer = world.warehouse.published
    own = json.loads(pointer.read_text(encoding="utf-8"))
    refusals = []
    for job in JOBS:
        newer = {"format_version": 99, "tables": {}}
        replace_json(pointer.with_suffix(".aside"), own)
        replace_json(pointer, newer)
        process = JobProcess(world, job, world.days[1], root / "newer.log")
        refusals.append({
            "job": job, "exit_code": process.wait(),
            "told": "has format 99, this version reads" in process.log.read_text(),
            "untouched": json.loads(pointer.read_text(encoding="utf-8")) == newer,
        })  # fmt: skip
        pointer.with_suffix(".aside").replace(pointer)
        _must(JobProcess(world, job, world.days[1], root / "own.log"))
    return {"refusals": refusals}


_CASES = {
    "disk": _fill_the_disk,
    "executor": _lose_an_executor,
    "twice": _run_twice_at_once,
    "pointer": _meet_a_newer_pointer,
}
CASES = tuple(_CASES)


def _must(process: JobProcess) -> None:
    if process.wait():
        raise RuntimeError(process.tail())


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        words = []
    return words


def _attempt(world: World) -> str | None:
    path = world.warehouse.features(world.days[1]) / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["attempt"] if path.is_file() else None
