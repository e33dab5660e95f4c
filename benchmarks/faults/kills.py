"""Kill each job of each day, start it again as the DAG's retry would, and see what came of it."""

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
from pyspark.sql import SparkSession

from benchmarks.faults.instants import MARKS, wait_for_clock, wait_for_mark
from benchmarks.faults.processes import JOBS, VICTIMS, JobProcess
from benchmarks.faults.reader import reading
from benchmarks.faults.tables import check_published, describe_day, find_leftovers, read_table
from benchmarks.faults.world import World, make_world
from spark_jobs.config import load_night_config
from spark_jobs.job import Job, start_spark
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score

_log = logging.getLogger(__name__)
STEPS = {"prepare_features": prepare, "score_users": score, "publish": publish}
_FIRST_GUESS_S = 12.0
_DELAYS_S = (0.0, 0.0, 0.002, 0.01, 0.05)


def run_nights(world: World, days: list[str], spark: SparkSession) -> None:
    """Run days' nights in this process, undisturbed."""
    config = load_night_config(world.config)
    for day in days:
        for step in STEPS.values():
            step(Job(spark, world.warehouse, config, day))


def run_undisturbed(root: Path, n_days: int) -> dict[str, Any]:
    """Every day's night of a new world in a session of its own.

    Returns:
        ``days``, what ``describe_day`` says of each, and ``digests`` of the tables by run id.
    """
    world = make_world(root, n_days)
    with start_spark("undisturbed", load_night_config(world.config)) as spark:
        run_nights(world, world.days, spark)
    return describe(world)


def describe(world: World) -> dict[str, Any]:
    """What a world holds; see ``run_undisturbed``."""
    with duckdb.connect() as database:
        digests = {
            run["run_id"]: read_table(database, world.warehouse.root / run["path"])["digest"]
            for run in world.warehouse.published_days().values()
        }
    return {
        "days": {day: describe_day(world.warehouse, day) for day in world.days},
        "digests": digests,
    }


class Killer:
    """Kills jobs of a world at instants of a seed, and holds what is then seen against the truth.

    Args:
        world: where they work.
        digests: of the tables of an undisturbed run.
        scratch: for the jobs' logs.
        seed: of instants and victims.
    """

    def __init__(self, world: World, digests: dict[str, str], scratch: Path, seed: int) -> None:
        self.world = world
        self.digests = digests
        self.scratch = scratch
        self.kills: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.was_named: dict[str, str | None] = {}
        self._random = random.Random(seed)
        self._seconds: dict[str, float] = {}

    def kill_once(self, job: str, day: str, *, mark: str | None, victim: str) -> bool:
        """Start a job and kill it.

        Args:
            mark: behind which of ``MARKS``; None for an instant of the clock.
        Returns:
            Whether the job has to be started again: not where it ended first, or did not mind.
        """
        self._note_named(job, day)
        process = JobProcess(self.world, job, day, self.scratch / f"{len(self.kills)}.log")
        started = time.monotonic()
        if mark is None:
            share = self._random.random()
            hit = wait_for_clock(share * self._seconds.get(job, _FIRST_GUESS_S), process)
        else:
            hit = wait_for_mark(self.world, job, day, mark, process)
            time.sleep(self._random.choice(_DELAYS_S))
        hit = hit and process.is_running()
        seconds = time.monotonic() - started
        victim = process.kill(victim, self._random) if hit else victim
        code, outlived = process.end()
        if not hit:
            return code != 0
        self._check(f"{job} of {day} killed")
        self.kills.append({
            "job": job, "day": day, "instant": mark or "clock", "victim": victim,
            "seconds": round(seconds, 2), "exit_code": code, "outlived": outlived,
        })  # fmt: skip
        _log.info("kill %d: %s", len(self.kills), self.kills[-1])
        if outlived:
            self.faults.append(f"{outlived} processes outlived {job} of {day} by a minute")
        return code != 0

    def finish(self, job: str, day: str) -> None:
        """Run a job to its end, as a retry."""
        self._note_named(job, day)
        process = JobProcess(self.world, job, day, self.scratch / "retry.log")
        started = time.monotonic()
        code = process.wait()
        self._seconds[job] = time.monotonic() - started
        if code:
            self.faults.append(f"the retry of {job} of {day} ended with {code}: {process.tail()}")
        self._check(f"{job} of {day} done")

    def draw(self, job: str, number: int) -> dict[str, Any]:
        """Where and whom to kill: by the clock and by a mark in turn."""
        mark = self._random.choice(list(MARKS[job])) if number % 2 else None
        return {"mark": mark, "victim": self._random.choice(VICTIMS)}

    def _note_named(self, job: str, day: str) -> None:
        """What a preparation leaves, for a night that may be reading it."""
        path = self.world.warehouse.features(day) / "manifest.json"
        if job == "prepare_features" and path.is_file():
            self.was_named[day] = self.world.warehouse.features_manifest(day)["attempt"]

    def _check(self, moment: str) -> None:
        with duckdb.connect() as database:
            found = check_published(database, self.world.warehouse, self.digests)
        self.faults += [f"{moment}: {fault}" for fault in found]


def sweep(
    root: Path, n_days: int, kills_a_job: int, save: Callable[[dict[str, Any]], None], seed: int
) -> dict[str, Any]:
    """Kill every job of every day up to ``kills_a_job`` times, and start it again each time.

    Args:
        save: is told the account after each day.
    Returns:
        The account: kills, what readers saw, what is other than in an undisturbed run.
    """
    truth = run_undisturbed(root / "undisturbed", n_days)
    _log.info("undisturbed: %d days", n_days)
    world = make_world(root / "killed", n_days)
    killer = Killer(world, truth["digests"], root, seed)
    account: dict[str, Any] = {"seed": seed, "days": n_days}
    with reading(world.warehouse, truth["digests"]) as seen:
        for day in world.days:
            for job in JOBS:
                todo = True
                for number in range(kills_a_job):
                    todo = todo and killer.kill_once(job, day, **killer.draw(job, number))
                if todo:
                    killer.finish(job, day)
            save({**account, "kills": killer.kills, "faults": killer.faults})
    mismatches = compare(truth, describe(world))
    leftovers = find_leftovers(world.warehouse, killer.was_named)
    for by in ("job", "victim", "instant"):
        account[f"kills_by_{by}"] = dict(Counter(kill[by] for kill in killer.kills))
    return {
        **account,
        "reads": seen["reads"],
        "reader_faults": seen["faults"],
        "faults": killer.faults,
        "mismatches": mismatches,
        "leftovers": leftovers,
        "kills": killer.kills,
    }


def compare(truth: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is other in a world than in the undisturbed one."""
    return [
        f"{day} {key}: {json.dumps(found['days'][day][key])}, undisturbed {json.dumps(value)}"
        for day, described in truth["days"].items()
        for key, value in described.items()
        if found["days"][day][key] != value
    ]
