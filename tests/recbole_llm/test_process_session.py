"""Ending a process and all that it started."""

import signal
import subprocess
import sys
import time
from pathlib import Path

_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
_ENDS = """
import signal, subprocess, sys
from recbole_llm.process_session import end_session
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's job in the background lacks
command = [sys.executable, "-c", sys.argv[1]]
child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()  # it ignores the signal
print(child.pid, flush=True)
end_session(child.pid, 8, child.poll)
"""


def test_a_second_interrupt_leaves_nothing_behind() -> None:
    command = [sys.executable, "-c", _ENDS, _STUBBORN]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ending:
        assert ending.stdout is not None
        child = int(ending.stdout.readline())
        time.sleep(0.5)
        ending.send_signal(signal.SIGINT)
        _, error = ending.communicate(timeout=30)
    assert "KeyboardInterrupt" in error  # it comes in the end
    assert not Path(f"/proc/{child}").exists()
