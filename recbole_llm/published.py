"""The pointer: which run is the table of which day. It moves in one step, forth and back.

``published.json`` holds for each day the run that readers see and, under ``before``, the runs that
they saw earlier, newest first.
"""

import datetime
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recbole_llm.errors import NotFoundError
from recbole_llm.warehouse import POINTER_VERSION, Warehouse, replace_json

_Days = dict[str, dict[str, Any]]


def publish_run(warehouse: Warehouse, run: dict[str, Any], keep_runs: int) -> list[str]:
    """Make a run the table of its day.

    Args:
        warehouse: where it lies.
        run: ``ds``, ``run_id``, ``path`` and what else readers need.
        keep_runs: runs of before that stay named, for ``roll_back``.
    Returns:
        Paths of all runs that the day still names.
    """
    with _locked(warehouse) as days:
        current = days.get(run["ds"])
        earlier = [_alone(current), *current["before"]] if current else []
        # A job that was killed behind this and is tried again publishes the same run once more.
        earlier = [each for each in earlier if each["path"] != run["path"]]
        days[run["ds"]] = {**run, "before": earlier[:keep_runs]}
        _write(warehouse, days)
    return [str(each["path"]) for each in [run, *earlier[:keep_runs]]]


def roll_back(warehouse: Warehouse, day: str) -> dict[str, Any] | None:
    """Let a day's table be what it was before it was last published.

    Where there was none, the day is withdrawn, and the newest day of the others is the latest. The
    run that was left is told of in ``runs`` as rolled back; its files stay until the day is
    published again.

    Returns:
        The run that is the day's table now; None where the day was withdrawn.
    Raises:
        NotFoundError: the day is not published, the run of before is no longer there, or there
            would be no table at all.
    """
    with _locked(warehouse) as days:
        left = warehouse.published_run(day)
        now = left["before"][0] if left["before"] else None
        if now and not (warehouse.root / now["path"]).is_dir():
            raise NotFoundError(
                f"the run {now['run_id']} that was the table of {day} before is gone from "
                f"{warehouse.root / now['path']}; score and publish the day again"
            )
        if now is None and len(days) == 1:
            raise NotFoundError(
                f"{day} is the only day with a table and had none before; publish another first"
            )
        if now:
            days[day] = {**now, "before": left["before"][1:]}
        else:
            del days[day]
        _write(warehouse, days)
    now_utc = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    warehouse.log_run(left["run_id"], {"status": "rolled back", "finished_at": now_utc})
    if now:
        warehouse.log_run(now["run_id"], {"status": "published"})
    return now


def withdraw_days(warehouse: Warehouse, before: str) -> list[str]:
    """Let the tables of days before a day be nobody's any more; the newest day stays.

    Returns:
        The days, oldest first.
    """
    with _locked(warehouse) as days:
        past = [day for day in sorted(days)[:-1] if day < before]
        runs = [days.pop(day) for day in past]
        if past:
            _write(warehouse, days)
    for run in runs:
        warehouse.log_run(run["run_id"], {"status": "expired"})
    return past


def correct_run(warehouse: Warehouse, day: str, run: dict[str, Any]) -> None:
    """Let the pointer say otherwise of a day's run, whose files were changed where they lie."""
    with _locked(warehouse) as days:
        if day in days and days[day]["path"] == run["path"]:
            days[day] = run
            _write(warehouse, days)


@contextmanager
def _locked(warehouse: Warehouse) -> Iterator[_Days]:
    """The days, while nobody else moves the pointer: two that do must not lose one another."""
    warehouse.root.mkdir(parents=True, exist_ok=True)
    with (warehouse.root / ".published.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield warehouse.published_days()


def _write(warehouse: Warehouse, days: _Days) -> None:
    pointer = {"format_version": POINTER_VERSION, "latest": max(days), "days": days}
    replace_json(warehouse.published, pointer)


def _alone(run: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "before"}
