"""``benchmarks/results/faults.json``: one account a part, and the figures of all of them."""

from typing import Any

from benchmarks.about import RESULTS, describe_run, read_results
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "faults.json"
_ABOUT = describe_run()


def save_part(name: str, account: dict[str, Any], figures: dict[str, Any]) -> None:
    """Put a part's account and figures in place of its earlier ones."""
    content = read_results(_PATH, {"parts": {}, "figures": {}})
    parts = {**content["parts"], name: {**_ABOUT, **account}}
    replace_json(_PATH, {"parts": parts, "figures": {**content["figures"], **figures}})
