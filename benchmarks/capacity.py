"""What a night takes of a large cluster, reckoned from the rates measured on small machines.

    python -m benchmarks.capacity --users 50000000 --items 1000000 --hours 2

Rates are of one core, from ``benchmarks/results``: scoring by catalogue size (``scoring.json``), the
state, the audit, the bytes of tables and states, and the share of a night in which few users changed
(``nightly.json``). Work is taken to divide among cores, which Spark's tasks do as
long as there are several for each core; it is not measured here beyond two.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.about import RESULTS, read_results
from recbole_llm.config_files import config_path, load_yaml

_CATALOGUES = (12_000, 1_000_000)
_CORES = 2
_GIB = 1 << 30


@dataclass(frozen=True)
class Rates:
    """Of one core, a second."""

    state_users: float
    """Users whose state is extended and written."""
    score_users: float
    """Users ranked, histories of 50."""
    audit_rows: float
    """Rows of the table that are audited and published."""
    changed_share: float
    """Seconds of scoring, where a twentieth changed, over those where everybody did."""
    table_bytes: float
    """Of a row."""
    state_bytes: float
    """Of a user."""


def measured_rates(n_items: int) -> Rates:
    """Read the results; of the measured catalogues the next larger one counts."""
    scoring = read_results(RESULTS / "scoring.json", {})
    nightly = read_results(RESULTS / "nightly.json", {})
    size = next((each for each in _CATALOGUES if each >= n_items), _CATALOGUES[-1])
    night = nightly["nights"]["changed_5pct"]
    slower = max(1.0, n_items / size)  # beyond the largest, ranking grows with the catalogue
    return Rates(
        state_users=night["n_users"] / night["features_seconds"] / _CORES,
        score_users=scoring["users_a_second"][f"{size} items, 1 core"]["score"] / slower,
        audit_rows=night["n_rows"] / night["publish_seconds"] / _CORES,
        changed_share=nightly["figures"]["changed_5pct_over_full"],
        table_bytes=night["table_bytes"] / night["n_rows"],
        state_bytes=night["state_bytes"] / night["n_users"],
    )


def reckon(rates: Rates, n_users: int, n_items: int, k: int, hours: float) -> list[tuple[str, ...]]:
    """Rows of the table: what, on a full night, on a night in which a twentieth changed."""
    state = n_users / rates.state_users / 3600
    score = n_users / rates.score_users / 3600
    audit = n_users * k / rates.audit_rows / 3600
    full, few = state + score + audit, state + score * rates.changed_share + audit
    width = load_yaml(config_path("model", "LLMSeqRec"))["hidden_size"]
    return [
        ("prepare_features, core-hours", f"{state:.1f}", f"{state:.1f}"),
        ("score_users, core-hours", f"{score:.1f}", f"{score * rates.changed_share:.1f}"),
        ("publish, core-hours", f"{audit:.1f}", f"{audit:.1f}"),
        ("together, core-hours", f"{full:.1f}", f"{few:.1f}"),
        (f"cores for {hours:g} hours", _up(full / hours), _up(few / hours)),
        ("table, GiB", *[f"{n_users * k * rates.table_bytes / _GIB:.1f}"] * 2),
        ("a day's state, GiB", *[f"{n_users * rates.state_bytes / _GIB:.1f}"] * 2),
        ("item vectors in each worker, GiB", *[f"{n_items * width * 4 / _GIB:.2f}"] * 2),
    ]


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
        *reckon(measured_rates(args.items), args.users, args.items, args.k, args.hours),
    ]
    sys.stdout.write("".join(f"| {' | '.join(row)} |\n" for row in table))


if __name__ == "__main__":
    main()
