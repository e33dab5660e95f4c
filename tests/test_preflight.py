"""What stops a build stops it first, in one line."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HOME

_TOOLS = ("sh", "df", "awk", "sed", "head", "id", "pwd", "grep")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with the tools that every system has, and Java 17; tests replace what they break."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in _TOOLS:
        found = next(p for p in ("/bin", "/usr/bin") if (Path(p) / name).exists())
        (folder / name).symlink_to(Path(found) / name)
    _tool(folder, "java", "echo 'openjdk version \"17.0.9\"' >&2")
    return folder


def _tool(folder: Path, name: str, script: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def _preflight(tools: Path, *arguments: str) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if k != "JAVA_HOME"}
    done = subprocess.run(
        [HOME / "requirements" / "preflight.sh", *(arguments or (sys.executable,))],
        env={**environment, "PATH": str(tools)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_all_is_well(tools: Path) -> None:
    assert _preflight(tools, sys.executable, "", "2024-05-01") == (0, "")


def test_python(tools: Path) -> None:
    code, err = _preflight(tools, "python3.11")
    assert (code, err.count("\n")) == (1, 1)
    assert "python3.11 is not there: install Python 3.11, or name it by" in err
    _tool(tools, "python3.11", "echo 3.12")
    assert "python3.11 is Python 3.12, 3.11 is needed" in _preflight(tools, "python3.11")[1]


def test_java(tools: Path) -> None:
    _tool(tools, "java", "echo 'openjdk version \"11.0.2\"' >&2")
    assert _preflight(tools)[1] == (
        "error: Java 11 is too old for Spark 4, 17 or newer is needed: install it, or set JAVA_HOME\n"
    )
    (tools / "java").unlink()
    assert _preflight(tools)[1] == (
        "error: Java is missing: install Java 17 (Debian: apt-get install openjdk-17-jre-headless)\n"
    )


def test_java_is_installed_where_that_is_allowed(tools: Path) -> None:
    (tools / "java").unlink()
    _tool(tools, "id", "echo 0")
    java = f"printf '#!/bin/sh\\necho version \\\\\"17.0\\\\\" >&2\\n' > {tools}/java"
    _tool(tools, "apt-get", f'echo "$@" >> {tools}/asked; {java}; /bin/chmod 755 {tools}/java')
    assert _preflight(tools) == (0, "")
    asked = (tools / "asked").read_text()
    assert asked == "update -qq\ninstall -y -qq openjdk-17-jre-headless\n"


def test_disk(tools: Path) -> None:
    _tool(tools, "df", "echo head; echo /dev/x 100 100 1000 99% /")
    assert "the disk has 0 GiB free at" in _preflight(tools)[1]


def test_port_and_day(tools: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert _preflight(tools, sys.executable, port)[1] == (
            f"error: port {port} is in use: choose another by 'make … PORT=8090'\n"
        )
        # The warehouse's own Airflow is left to the command that can end it.
        (tools / "airflow").mkdir()
        (tools / "airflow" / "lock").write_text(f'{{"url": "http://127.0.0.1:{port}"}}')
        assert _preflight(tools, sys.executable, port, "", str(tools)) == (0, "")
    assert _preflight(tools, sys.executable, "", "yesterday")[1] == (
        "error: DAY is written YYYY-MM-DD, as 2024-05-01, got 'yesterday'\n"
    )
