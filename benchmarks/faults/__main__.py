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

from benchmarks.faults.cases import CASES, run_case
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
    for part in args.parts:
        with tempfile.TemporaryDirectory(prefix=f"faults-{part}-") as folder:
            if part == "kills":
                run_kills(Path(folder), args.days, args.seed)
            else:
                account = run_case(part, Path(folder))
                save_part(part, account, {})
                sys.stdout.write(f"{part}: {json.dumps(account, indent=1)}\n")


def run_kills(folder: Path, n_days: int, seed: int) -> None:
    """The sweep; its account is written as it goes."""
    account = sweep(folder, n_days, 3, lambda part: save_part("kills", part, {}), seed)
    incomplete = account["reader_faults"] + account["faults"]
    figures: dict[str, Any] = {
        "kills": len(account["kills"]),
        "incomplete_reads": len(incomplete),
        "final_mismatches": len(account["mismatches"]) + len(account["leftovers"]),
    }
    save_part("kills", account, figures)
    sys.stdout.write(f"{figures}\n{account['mismatches']}\n{account['leftovers']}\n{incomplete}\n")


if __name__ == "__main__":
    main()
