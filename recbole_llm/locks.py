"""Who works on a warehouse: one job a day, one training, and nobody while files change under all.

A job holds the lock of what it works on, and takes it at the gate. Who holds the gate therefore sees
each job that has begun by its lock, and keeps the next from beginning. Locks go with their process.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from recbole_llm.errors import UnavailableError
from recbole_llm.warehouse import Warehouse

TRAINING = "training"
_log = logging.getLogger(__name__)


@contextmanager
def one_job_on(warehouse: Warehouse, what: str) -> Iterator[None]:
    """Wait until no other job works on the same.

    Args:
        what: a day, or ``TRAINING``.
    """
    warehouse.locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(warehouse.locks / f"{what}.lock")
    with _gate(warehouse):
        is_free = _taken(lock)
    if not is_free:
        _log.warning("another job works on %s (%s); waiting for it", what, lock.lock_file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def if_idle(warehouse: Warehouse, what: str) -> Iterator[bool]:
    """Keep jobs from working on something meanwhile; gives whether that is so, or one is at it.

    Args:
        what: a day, or ``TRAINING``.
    """
    lock = FileLock(warehouse.locks / f"{what}.lock")
    is_idle = _taken(lock)
    try:
        yield is_idle
    finally:
        lock.release()


@contextmanager
def no_job(warehouse: Warehouse) -> Iterator[None]:
    """Hold all jobs off.

    Raises:
        UnavailableError: one is at work; the message says on what.
    """
    warehouse.locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(_gate(warehouse))
        for path in sorted(warehouse.locks.glob("*.lock")):
            lock = FileLock(path)
            if not _taken(lock):
                raise UnavailableError(f"a job works on {path.stem}; try again when it has ended")
            stack.callback(lock.release)
        yield


@contextmanager
def _gate(warehouse: Warehouse) -> Iterator[None]:
    gate = FileLock(warehouse.locks / "gate")
    if not _taken(gate):
        _log.info("files of %s change for all jobs; waiting", warehouse.root)
        gate.acquire()
    try:
        yield
    finally:
        gate.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
