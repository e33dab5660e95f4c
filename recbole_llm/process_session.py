"""End a process together with everything it started, also what has left its process group.

Linux only: it reads ``/proc``.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def end_session(leader: int, grace_s: float, reap: Callable[[], object] | None = None) -> None:
    """Terminate a session's processes and all their descendants, and kill what stays.

    An interrupt meanwhile, such as a second Ctrl-C, waits until they are gone.

    Args:
        leader: process id of the session's leader; it may have ended.
        grace_s: seconds to end by themselves after SIGTERM.
        reap: collects the leader's exit status, where it is this process's child.
    """
    with _interrupts_held():
        members = _members(leader)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + grace_s
            while members and time.monotonic() < deadline:
                if reap is not None:
                    reap()
                time.sleep(0.1)
                members = (members | _members(leader)) & _processes().keys()
        if reap is not None:
            reap()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _members(leader: int) -> set[int]:
    """The session of ``leader``, and descendants with sessions of their own."""
    processes = _processes()
    members = {pid for pid, (_, session) in processes.items() if session == leader}
    while children := {p for p, (parent, _) in processes.items() if parent in members} - members:
        members |= children
    return members


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and session of each process that has not ended, by process id."""
    processes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # "pid (name) state parent group session …"; the name may hold spaces and brackets.
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if state != "Z":
            processes[int(folder.name)] = (int(parent), int(session))
    return processes
