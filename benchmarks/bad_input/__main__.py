"""Nights upon bad input: a tenth of a million rows bad in every way; ten million events of a robot.

    python -m benchmarks.bad_input rows robot

**unaccounted_rows**: rows that the night counted other than it had to, kind by kind. **bad_row_kinds**:
kinds of rows and files that are to be set aside or refused (each alone in
``tests/benchmarks/test_bad_input.py``). Peak memory is resident memory, of the driver, the JVM and the
Python workers; workers share pages, which count for each.

Writes ``benchmarks/results/faults.json``.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bad_input.kinds import DAY, ITEMS, MIDNIGHT, ROW_KINDS, file_kinds
from benchmarks.bad_input.world import (
    Expected,
    day_folder,
    find_differences,
    make_world,
    write_files,
    write_rows,
)
from benchmarks.faults.processes import JOBS, JobProcess
from benchmarks.faults.store import save_part
from benchmarks.faults.world import World

_SAMPLE_S = 0.25
_MIB = 1 << 20
_log = logging.getLogger("benchmarks.bad_input")


def main() -> None:
    """Run cases and print what came of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bad_input",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("cases", nargs="+", choices=["rows", "robot"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bad", type=int, default=100_000)
    parser.add_argument("--robot", type=int, default=10_000_000)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for case in args.cases:
        with tempfile.TemporaryDirectory(prefix="bad-input-") as folder:
            world, expected = make_world(Path(folder)), Expected()
            if case == "rows":
                write_rows(world, args.rows - args.bad, args.bad // (len(ROW_KINDS) + 1), expected)
                good_files = {n: kind for n, kind in file_kinds().items() if not kind.fault}
                write_files(world, good_files, expected)
            else:
                write_robot(world, args.robot, expected)
            _log.info("%s: %d rows written", case, expected.raw)
            account = run_night(world, expected, Path(folder))
        if case == "rows":
            account["bad_kinds"] = count_kinds()
        save_part(f"bad input, {case}", account)
        sys.stdout.write(f"{case}: {json.dumps(account, indent=1)}\n")


def count_kinds() -> int:
    """Kinds of rows and files that are set aside or refused."""
    bad_rows = [name for name, (reason, _) in ROW_KINDS.items() if reason]
    bad_files = [name for name, kind in file_kinds().items() if kind.fault or kind.reasons]
    return len(bad_rows) + len(bad_files)


def write_robot(world: World, n_events: int, expected: Expected) -> None:
    """Write a day of ordinary events, and a robot's."""
    write_files(world, {}, expected)
    generator = np.random.default_rng(0)
    table = pa.table({
        "user_id": pa.array(["robot"]).take(pa.array(np.zeros(n_events, int))),
        "item_id": pa.array(ITEMS).take(pa.array(generator.integers(len(ITEMS), size=n_events))),
        "timestamp": MIDNIGHT + generator.integers(86_400, size=n_events),
    })  # fmt: skip
    pq.write_table(table, day_folder(world) / "robot.parquet")
    expected.raw += n_events
    expected.reasons["events.robot"] += n_events


def run_night(world: World, expected: Expected, scratch: Path) -> dict[str, Any]:
    """Run a night as the DAG does.

    Returns:
        Seconds and peak memory of each job, and what was counted other than expected.
    Raises:
        RuntimeError: a job failed.
    """
    seconds, peaks = {}, {}
    for job in JOBS:
        started = time.monotonic()
        process = JobProcess(world, job, DAY, scratch / "job.log", memory="4g")
        peaks[job] = _watch_memory(process)
        if process.wait():
            raise RuntimeError(process.tail())
        seconds[job] = round(time.monotonic() - started, 1)
        _log.info("%s: %.1f s, %s MiB", job, seconds[job], peaks[job])
    differences = find_differences(world, expected)
    run = world.warehouse.published_run(DAY)
    row = json.loads((world.warehouse.run_log / f"{run['run_id']}.json").read_text("utf-8"))
    return {
        "raw_rows": row["raw_rows"],
        "accepted_rows": row["accepted_rows"],
        "quarantined_rows": row["quarantined_rows"],
        "duplicate_rows": row["duplicate_rows"],
        "differences": differences,
        "unaccounted_rows": sum(abs(found - wanted) for found, wanted in differences.values()),
        "n_users": row["n_users"],
        "n_rows": row["n_rows"],
        "seconds": seconds,
        "features_seconds": row["features_seconds"],
        "score_seconds": row["score_seconds"],
        "publish_seconds": row["publish_seconds"],
        "peak_mib": peaks,
    }


def _watch_memory(process: JobProcess) -> dict[str, int]:
    """The most that a job's processes held at one time, until it ends, in MiB by kind."""
    peaks: Counter[str] = Counter()
    while process.is_running():
        for kind, processes in process.processes().items():
            peaks[kind] = max(peaks[kind], sum(map(_held, processes)) // _MIB)
        time.sleep(_SAMPLE_S)
    return dict(peaks)


def _held(process: psutil.Process) -> int:
    try:
        held: int = process.memory_info().rss
    except psutil.Error:
        return 0
    return held


if __name__ == "__main__":
    main()
