"""Counts inputs, and keeps each kind of error that is not ours once."""

import contextlib
import hashlib
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from recbole_llm.errors import RecboleLlmError
from recbole_llm.warehouse import replace_json

HANG_S = 20.0
"""An input that takes longer hangs, seconds."""
_PACKAGES = ("recbole_llm/", "spark_jobs/")
_SAVE_S = 1.0


class Hang(BaseException):
    """An input took too long."""


class Tally:
    """What one target came to, written to a file while it grows: a process that dies tells it too.

    Args:
        path: of the account; what stands there is gone on with.
        inputs: a folder, which gets the first input of each error.
    """

    def __init__(self, path: Path, inputs: Path) -> None:
        self._path, self._inputs = path, inputs
        self.inputs, self.errors = 0, dict[str, dict[str, Any]]()
        self._started = self._saved = time.monotonic()

    def check(self, read: Callable[[bytes], None], data: bytes) -> None:
        """Let a target read an input; whatever it raises but for our errors is kept."""
        self.inputs += 1
        try:
            with _time_limit():
                read(data)
        except RecboleLlmError:
            pass
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception, and no error ours
            self.note(type(error).__name__, place_of(error.__traceback__), data)
        if time.monotonic() - self._saved > _SAVE_S:
            self.save()

    def note(self, kind: str, place: str, data: bytes, times: int = 1) -> None:
        """Count an error that is not ours."""
        name = f"{kind} in {place}"
        if name not in self.errors:
            self.errors[name] = {"type": kind, "place": place, "times": 0}
            self._inputs.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(name.encode()).hexdigest()[:12]
            (self._inputs / f"{kind}-{digest}").write_bytes(data)
        self.errors[name]["times"] += times

    def save(self) -> None:
        """Write the account."""
        self._saved = time.monotonic()
        seconds = round(self._saved - self._started, 1)
        errors = list(self.errors.values())
        replace_json(self._path, {"inputs": self.inputs, "seconds": seconds, "errors": errors})


def place_of(trace: TracebackType | None) -> str:
    """The innermost frame in our packages and its function; no path of this machine."""
    for frame in reversed(traceback.extract_tb(trace)):
        for package in _PACKAGES:
            if package in frame.filename and "benchmarks" not in frame.filename:
                inside = frame.filename.rpartition(package)[2]
                return f"{package}{inside}:{frame.name}"
    return "the target itself"


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def catch_hangs() -> None:
    """Let an input that takes longer than ``HANG_S`` raise, where Python gets a turn."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
