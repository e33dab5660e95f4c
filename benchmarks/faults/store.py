"""``benchmarks/results/faults.json``: an account a part, and the figures of all of them together."""

from typing import Any

from filelock import FileLock

from benchmarks.about import RESULTS, describe_run, read_results
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "faults.json"
_ABOUT = describe_run()


def save_part(name: str, account: dict[str, Any]) -> None:
    """Put a part's account in place of its earlier one, and the figures anew."""
    with FileLock(RESULTS / ".faults.json.lock"):
        parts = read_results(_PATH, {"parts": {}})["parts"]
        parts = dict(sorted({**parts, name: {**_ABOUT, **account}}.items()))
        replace_json(_PATH, {"figures": figures(parts), "parts": parts})


def figures(parts: dict[str, dict[str, Any]]) -> dict[str, int]:
    """``kills``, and over all parts what was read, left or counted other than it had to be."""

    def total(*names: str) -> int:
        return sum(len(part.get(name, ())) for part in parts.values() for name in names)

    return {
        "kills": total("kills"),
        "reads": sum(part.get("reads", 0) for part in parts.values()),
        "incomplete_reads": total("reader_faults", "faults"),
        "final_mismatches": total("mismatches", "leftovers"),
        "bad_row_kinds": max((part.get("bad_kinds", 0) for part in parts.values()), default=0),
        "unaccounted_rows": sum(part.get("unaccounted_rows", 0) for part in parts.values()),
    }
