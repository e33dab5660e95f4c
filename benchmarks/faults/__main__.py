"""Kill the night's jobs, starve them, double them; see what readers see and what is left.

    python -m benchmarks.faults kills            # about an hour on two busy cores
    python -m benchmarks.faults disk executor twice pointer

**kills**: each job of each day of a generated feed is killed by SIGKILL, up to three times, at instants
of a fixed seed: by the clock, or right behind something that appears on disk; all its processes, or its
driver, its JVM or one Python worker alone. It is started again by the same command line.
**incomplete_reads**: what readers saw that is not one whole table of an undisturbed run, after each
kill and by a reader that never rests. **final_mismatches**: what differs in the end from an
undisturbed run's tables, states, quarantine, counts or run ids, row by row, and what lies in the
warehouse and belongs to nothing.

Writes ``benchmarks/results/faults.json``.
"""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import CASES, run_cases
from benchmarks.faults.kills import sweep
from benchmarks.faults.store import save_part


def main() -> None:
    """Run parts and print their figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("parts", nargs="+", choices=["kills", *CASES])
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        if "kills" in args.parts:
            run_kills(Path(folder) / "kills", args.days, args.seed)
        if cases := [case for case in CASES if case in args.parts]:
            run_cases(cases, Path(folder), save_case)


def save_case(case: str, account: dict[str, Any]) -> None:
    """Write what came of a case, and say it."""
    save_part(case, account)
    sys.stdout.write(f"{case}: {json.dumps(account, indent=1)}\n")


def run_kills(folder: Path, n_days: int, seed: int) -> None:
    """The sweep; its account is written as it goes."""
    name = f"kills, seed {seed}"
    folder.mkdir()
    account = sweep(folder, n_days, 3, lambda part: save_part(name, part), seed)
    save_part(name, account)
    sys.stdout.write(f"{json.dumps({**account, 'kills': len(account['kills'])}, indent=1)}\n")


if __name__ == "__main__":
    main()
