"""A reader that never rests: it resolves the newest day and one other through the pointer and checks.

    python -m benchmarks.faults.reader WAREHOUSE DIGESTS

It ends when its standard input does, and prints how often it read and what was wrong.
"""

import json
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.faults.tables import check_published
from recbole_llm.warehouse import Warehouse

_HOME = Path(__file__).parent.parent.parent
_PAUSE_S = 0.1


@contextmanager
def reading(warehouse: Warehouse, digests: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Read without rest in a process of its own.

    Yields:
        Empty; at the end ``reads`` and ``faults``.
    """
    command = [sys.executable, "-m", __name__, str(warehouse.root), json.dumps(digests)]
    found: dict[str, Any] = {}
    with subprocess.Popen(
        command, cwd=_HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield found
        finally:
            out, _ = process.communicate()
    found.update(json.loads(out))


def main() -> None:
    """Read until standard input ends."""
    warehouse, digests = Warehouse(sys.argv[1]), json.loads(sys.argv[2])
    random_ = random.Random(0)
    reads, faults = 0, []
    known: set[str] = set()
    with duckdb.connect() as database:
        while not select.select([sys.stdin], [], [], _PAUSE_S)[0]:
            days = list(warehouse.published_days())
            if lost := known - set(days):
                faults.append(f"the pointer lost {sorted(lost)}")
            known |= set(days)
            if days:
                asked = [days[-1], random_.choice(days)]
                faults += check_published(database, warehouse, digests, asked)
                reads += len(asked)
    sys.stdout.write(json.dumps({"reads": reads, "faults": faults}))


if __name__ == "__main__":
    main()
