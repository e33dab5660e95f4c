"""End a process together with everything it started, also what has left its process group.

Linux only: it reads ``/proc``.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path


def end_session(leader: subprocess.Popen[bytes], grace_s: float) -> None:
    """Terminate a session's processes and all their descendants, and kill what stays.

    Args:
        leader: a process that was started with ``start_new_session=True``; it may have ended.
        grace_s: seconds to end by themselves after SIGTERM.
    """
    members = _members(leader.pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + grace_s
        while members and time.monotonic() < deadline:
            leader.poll()  # reaps it
            time.sleep(0.1)
            members = (members | _members(leader.pid)) & _processes().keys()
    leader.wait()


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
