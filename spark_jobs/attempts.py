"""Which attempts stay and which are deleted.

An attempt stays while a manifest or the pointer names it. What a killed run left is named by nobody
and goes when its job starts again, before it needs the room. One job of a day runs at a time
(``locks``), so what nobody names is nobody's.
"""

import datetime
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from recbole_llm.lists.catalogue import TRENDING
from recbole_llm.locks import if_idle
from recbole_llm.removal import prune_attempts, remove_whole
from recbole_llm.warehouse import Warehouse, delivered_days
from spark_jobs.state import TABLES

_log = logging.getLogger(__name__)


def prune_features(warehouse: Warehouse, day: str) -> None:
    """Delete the day's features that neither its manifest nor its runs of now and before name."""
    keep = {_features_of(run) for run in _runs(warehouse, day)}
    if (warehouse.features(day) / "manifest.json").is_file():
        keep.add(warehouse.features_manifest(day)["attempt"])
    prune_attempts(warehouse.features(day), keep)


def flush_files(folder: Path) -> None:
    """Bring a folder's files to the disk, before anything that outlives a power cut names them."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def prune_runs(warehouse: Warehouse, day: str) -> None:
    """Delete the day's runs that are neither its table of now or before nor waiting for their audit."""
    keep = {Path(run["path"]).name for run in _runs(warehouse, day)}
    for folder in warehouse.runs(day).glob("run_id=*"):
        prune_attempts(folder, keep)
        with suppress(OSError):  # not empty
            folder.rmdir()


def prune_states(warehouse: Warehouse, day: str, keep_days: int) -> None:
    """Delete the tables of states older than ``keep_days``; quarantine and manifest stay.

    Of a day that no night finished, all goes but what a job writes at this moment.
    """
    oldest = str(datetime.date.fromisoformat(day) - datetime.timedelta(days=keep_days))
    finished = warehouse.features_manifests()
    for each in delivered_days(warehouse.root / "features"):
        if each >= oldest:
            continue
        if each in finished:
            for attempt in warehouse.features(each).iterdir():
                for name in (*TABLES, TRENDING):
                    try:
                        remove_whole(attempt / name)
                    except OSError as error:  # the next night goes on with it
                        _log.warning("%s could not be deleted whole: %s", attempt / name, error)
        else:
            with if_idle(warehouse, each) as is_idle:
                if is_idle:
                    prune_features(warehouse, each)


def _runs(warehouse: Warehouse, day: str) -> list[dict[str, Any]]:
    """The day's table, the tables of before, and the run that was scored last."""
    runs = []
    if table := warehouse.published_days().get(day):
        runs += [table, *table["before"]]
    if (warehouse.runs(day) / "scored.json").is_file():
        runs.append(warehouse.scored_manifest(day))
    return runs


def _features_of(run: dict[str, Any]) -> str:
    return Path(run["features_path"]).name
