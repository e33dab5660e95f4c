"""Start a job as the DAG does, see its processes, and kill them."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyspark

from benchmarks.faults.world import World

_HOME = Path(__file__).parent.parent.parent
JOBS = ("prepare_features", "score_users", "publish")
VICTIMS = ("all", "driver", "jvm", "worker")
_ENDS_WITHIN_S = 60.0


class JobProcess:
    """One job of a day under spark-submit, with all the processes that it starts.

    Args:
        world: where it works.
        job: one of ``JOBS``.
        day: the partition.
        log: a file for what it says.
        master: where Spark runs.
        memory: of the driver's JVM.
    """

    def __init__(
        self,
        world: World,
        job: str,
        day: str,
        log: Path,
        master: str = "local[2]",
        memory: str = "1g",
    ) -> None:
        # As the SparkSubmitOperator of dags/night_jobs.py puts it together.
        command = [
            str(Path(pyspark.__path__[0]) / "bin" / "spark-submit"), "--master", master,
            "--conf", "spark.sql.session.timeZone=UTC", "--conf", "spark.ui.enabled=false",
            "--conf", "spark.speculation=false", "--driver-memory", memory,
            "--name", f"{job} {day}", "--deploy-mode", "client",
            str(_HOME / "spark_jobs" / f"{job}.py"), "--warehouse", str(world.warehouse.root),
            "--config", str(world.config), "--day", day,
        ]  # fmt: skip
        self.log = log
        with log.open("w") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                start_new_session=True, env=job_environment(log.parent),
            )  # fmt: skip

    def is_running(self) -> bool:
        """Whether spark-submit has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait()

    def processes(self) -> dict[str, list[psutil.Process]]:
        """What runs in its session now, by ``VICTIMS``."""
        found: dict[str, list[psutil.Process]] = {name: [] for name in VICTIMS}
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) != self._process.pid:
                    continue
                words = process.cmdline()
            except (OSError, psutil.Error):
                continue
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            found["all"].append(process)
            if "pyspark.daemon" in words or "pyspark.worker" in words:
                found["worker"].append(process)
            elif process.name() == "java":
                found["jvm"].append(process)
            elif words and words[0].endswith(Path(sys.executable).name):
                found["driver"].append(process)
        return found

    def kill(self, victim: str, random_: random.Random) -> str:
        """Kill by SIGKILL.

        Args:
            victim: ``all`` its processes, its ``driver``, its ``jvm`` or one Python ``worker``.
        Returns:
            Who was killed: ``all`` where there was no such process.
        """
        running = self.processes()
        if not running[victim]:
            victim = "all"
        chosen = [random_.choice(running[victim])] if victim == "worker" else running[victim]
        for process in chosen:
            _kill(process)
        return victim

    def end(self) -> tuple[int, int]:
        """Wait until all that it started has ended, and end what does not.

        Returns:
            The exit code, and how many processes outlived the job by a minute.
        """
        deadline = time.monotonic() + _ENDS_WITHIN_S
        if self.is_running():
            self._process.wait()
        while (left := self.processes()["all"]) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in left:
            _kill(process)
        return self._process.returncode, len(left)

    def tail(self) -> str:
        """The last of what it said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


def job_environment(scratch: Path) -> dict[str, str]:
    """Environment of a job: this interpreter for driver and workers, this checkout's packages."""
    return {
        **os.environ,
        "PYTHONPATH": str(_HOME),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_HOME": str(_spark_home(scratch)),
        "SPARK_LOCAL_IP": "127.0.0.1",
        # Half the processor time of jobs that live for seconds.
        "JAVA_TOOL_OPTIONS": f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Djava.io.tmpdir={scratch}",
        # Where a killed JVM leaves what it shuffled.
        "SPARK_LOCAL_DIRS": str(scratch / "local"),
    }


def _spark_home(scratch: Path) -> Path:
    """Spark, linked, for a local-cluster's executors work below its home."""
    home = scratch / "spark"
    home.mkdir(exist_ok=True)
    for path in Path(pyspark.__path__[0]).iterdir():
        if not (home / path.name).exists() and path.name != "work":
            (home / path.name).symlink_to(path)
    return home


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
