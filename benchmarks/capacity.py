"""What a night takes of a large cluster, reckoned from the rates measured on small machines.

    python -m benchmarks.capacity --users 50000000 --items 1000000 --hours 2 --docs

Rates are of one core, from ``benchmarks/results``: scoring by catalogue size (``scoring.json``), the
state, the audit, the bytes of tables and states, and the share of a night in which few users changed
(``nightly.json``). Work is taken to divide among cores, which Spark's tasks do as
long as there are several for each core; it is not measured here beyond two.
"""

import argparse
import math
import sys

from benchmarks.about import DOCS, RESULTS, read_results
from recbole_llm.config_files import config_path, load_yaml

# Of scoring.json, and the cores of nightly.json.
_CATALOGUES = (12_000, 1_000_000)
_CORES = 2
MARK = "<!-- python -m benchmarks.capacity --docs -->\n"
_GIB = 1 << 30


def reckon(n_users: int, n_items: int, k: int, hours: float) -> list[tuple[str, str, str]]:
    """What a night takes: name, where all users changed, where a twentieth did."""
    nightly = read_results(RESULTS / "nightly.json", {})
    scoring = read_results(RESULTS / "scoring.json", {})
    night = nightly["nights"]["changed_5pct"]
    n_measured = night["n_users"]
    # Of the measured catalogues the next larger one counts; beyond them ranking grows in step.
    size = next((each for each in _CATALOGUES if each >= n_items), _CATALOGUES[-1])
    rate = scoring["users_a_second"][f"{size} items, 1 core"]["score"] / max(1.0, n_items / size)
    score = n_users / rate / 3600
    state = n_users / n_measured * night["features_seconds"] * _CORES / 3600
    hours_by_job = {
        "prepare_features": (state, state),
        "score_users": (score, score * nightly["figures"]["changed_5pct_over_full"]),
    }
    width = load_yaml(config_path("model", "LLMSeqRec"))["hidden_size"]
    gibibytes = {"item vectors in each worker": n_items * width * 4 / _GIB}
    if "n_rows" in night:  # results of before know neither the audit nor sizes
        rows = n_users * k / night["n_rows"]
        audit = rows * night["publish_seconds"] * _CORES / 3600
        hours_by_job["publish"] = (audit, audit)
        gibibytes["table"] = rows * night["table_bytes"] / _GIB
        gibibytes["a day's state"] = n_users / n_measured * night["state_bytes"] / _GIB
    full, few = (sum(column) for column in zip(*hours_by_job.values(), strict=True))
    return [
        *((f"{job}, core-hours", _one(all_), _one(some))
          for job, (all_, some) in hours_by_job.items()),
        (f"{', '.join(hours_by_job)}, core-hours", _one(full), _one(few)),
        (f"cores for {hours:g} hours", str(math.ceil(full / hours)), str(math.ceil(few / hours))),
        *((f"{name}, GiB", f"{size:.2f}", f"{size:.2f}") for name, size in gibibytes.items()),
    ]  # fmt: skip


def _one(number: float) -> str:
    return f"{number:.1f}"


def table(n_users: int, n_items: int, k: int, hours: float) -> str:
    """The same as Markdown."""
    head = (f"{n_users:,} users, {n_items:,} items, K={k}", "all changed", "5 % changed")
    rows = [head, ("---", "---:", "---:"), *reckon(n_users, n_items, k, hours)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Print the table, and put it into the docs where it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=50_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--hours", type=float, default=2.0, help="that the night may take")
    parser.add_argument("--docs", action="store_true", help="put it into docs/operations.md")
    args = parser.parse_args()
    text = table(args.users, args.items, args.k, args.hours)
    sys.stdout.write(text)
    if args.docs:
        path = DOCS / "operations.md"
        before, _, after = path.read_text(encoding="utf-8").partition(MARK)
        rest = "".join(
            line for line in after.splitlines(keepends=True) if not line.startswith("|")
        ).lstrip("\n")
        path.write_text(f"{before}{MARK}\n{text}\n{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
