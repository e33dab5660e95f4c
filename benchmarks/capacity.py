"""What a night takes of a large cluster, reckoned from the rates measured on small machines.

    python -m benchmarks.capacity --users 50000000 --items 1000000 --hours 2

Rates are of one core, from ``benchmarks/results``: scoring by catalogue size (``scoring.json``), the
state, the audit, the bytes of tables and states, and the share of a night in which few users changed
(``nightly.json``). Work is taken to divide among cores, which Spark's tasks do as
long as there are several for each core; it is not measured here beyond two.
"""

import argparse
import sys
from typing import Any

from benchmarks.about import RESULTS, read_results
from recbole_llm.config_files import config_path, load_yaml

_CATALOGUES = (12_000, 1_000_000)
_CORES = 2
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
    by_job = {
        "prepare_features": [n_users / n_measured * night["features_seconds"] * _CORES / 3600] * 2,
        "score_users": [score, score * nightly["figures"]["changed_5pct_over_full"]],
        "publish": [
            n_users * k / night["n_rows"] * night["publish_seconds"] * _CORES / 3600
        ] * 2,
    }  # fmt: skip
    together = [sum(column) for column in zip(*by_job.values(), strict=True)]
    width = load_yaml(config_path("model", "LLMSeqRec"))["hidden_size"]
    gibibytes = {
        "table, GiB": n_users * k / night["n_rows"] * night["table_bytes"] / _GIB,
        "a day's state, GiB": n_users / n_measured * night["state_bytes"] / _GIB,
        "item vectors in each worker, GiB": n_items * width * 4 / _GIB,
    }
    return [
        *((f"{job}, core-hours", *map(_one, both)) for job, both in by_job.items()),
        ("together, core-hours", *map(_one, together)),
        (f"cores for {hours:g} hours", *(_up(each / hours) for each in together)),
        *((name, f"{size:.2f}", f"{size:.2f}") for name, size in gibibytes.items()),
    ]


def _one(number: float) -> str:
    return f"{number:.1f}"


def _up(number: float) -> str:
    return f"{int(-(-number // 1))}"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=50_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--hours", type=float, default=2.0, help="that the night may take")
    args = parser.parse_args()
    table: list[Any] = [
        (f"{args.users:,} users, {args.items:,} items, K={args.k}", "all changed", "5 % changed"),
        ("---", "---:", "---:"),
        *reckon(args.users, args.items, args.k, args.hours),
    ]
    sys.stdout.write("".join(f"| {' | '.join(row)} |\n" for row in table))


if __name__ == "__main__":
    main()
