"""When to kill: at an instant of the clock, or right behind something that appears on disk.

The clock spreads kills over a job's whole duration, most of which is Spark's start and reading. What
appears on disk marks the short moments in which a job changes what others see.
"""

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.processes import JobProcess
from benchmarks.faults.world import World

_POLL_S = 0.002
_Mark = Callable[[Path, str], object]

MARKS: dict[str, dict[str, _Mark]] = {
    "prepare_features": {
        "attempt": lambda root, day: _names(root, f"features/ds={day}/*/*"),
        "checked": lambda root, day: _names(root, f"features/ds={day}/*/_checked/_SUCCESS"),
        "sequences": lambda root, day: _names(root, f"features/ds={day}/*/sequences/_SUCCESS"),
        "quarantine": lambda root, day: _names(root, f"features/ds={day}/*/quarantine/_SUCCESS"),
        "staged": lambda root, day: _names(root, f"features/ds={day}/.manifest*"),
        "manifest": lambda root, day: _time(root / f"features/ds={day}/manifest.json"),
    },
    "score_users": {
        "attempt": lambda root, day: _names(root, f"runs/ds={day}/run_id=*/*"),
        "file begun": lambda root, day: _names(root, f"runs/ds={day}/run_id=*/*/.*.parquet-*"),
        "file done": lambda root, day: _names(root, f"runs/ds={day}/run_id=*/*/*.parquet"),
        "staged": lambda root, day: _names(root, f"runs/ds={day}/.scored*"),
        "manifest": lambda root, day: _time(root / f"runs/ds={day}/scored.json"),
    },
    "publish": {
        "staged": lambda root, _: _names(root, ".published.json*"),
        "pointer": lambda root, _: _time(root / "published.json"),
        "run log": lambda root, day: _times(root, f"run_log/{day}*.json"),
    },
}
"""What is looked at, by job: the instant is when it changes."""


def wait_for_mark(world: World, job: str, day: str, mark: str, process: JobProcess) -> bool:
    """Wait until the mark changes; False when the job ended before."""
    look, root = MARKS[job][mark], world.warehouse.root
    before = look(root, day)
    while process.is_running():
        now = look(root, day)
        if now != before and now:
            return True
        before = now  # what a job clears away first
        time.sleep(_POLL_S)
    return False


def wait_for_clock(seconds: float, process: JobProcess) -> bool:
    """Wait; False when the job ended before."""
    until = time.monotonic() + seconds
    while process.is_running():
        if time.monotonic() >= until:
            return True
        time.sleep(0.005)
    return False


def _names(root: Path, pattern: str) -> frozenset[str]:
    return frozenset(str(path) for path in root.glob(pattern))


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _times(root: Path, pattern: str) -> tuple[int, ...]:
    return tuple(sorted(_time(path) for path in root.glob(pattern)))
