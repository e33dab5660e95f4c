"""How the rows of the transfer benchmark become ratios."""

from typing import Any

import pytest

from benchmarks import transfer
from benchmarks.about import DOCS
from benchmarks.transfer import compare, draw_users


def _row(start: str, share: float, seed: int, ndcg: float) -> dict[str, Any]:
    source = "a" if start == "transfer" else None
    return {"source": source, "target": "b", "start": start, "share": share, "seed": seed,
            "ndcg@10": ndcg}  # fmt: skip


def test_ratios_are_seed_by_seed() -> None:
    rows = [
        _row("pop", 1.0, 1, 0.02), _row("transfer", 0.0, 1, 0.03),
        _row("transfer", 0.1, 1, 0.06), _row("scratch", 0.1, 1, 0.04),
        _row("transfer", 0.1, 2, 0.06), _row("scratch", 0.1, 2, 0.06),
        _row("transfer", 0.1, 3, 0.99),  # nothing to hold it against
        {**_row("scratch", 1.0, 1, 0.1), "target": "another"}, _row("transfer", 1.0, 1, 0.2),
    ]  # fmt: skip
    assert compare(rows) == [
        {"source": "a", "target": "b", "zero_shot_over_pop": 1.5, "ten_percent_over_scratch": 1.2,
         "ten_percent_error": 0.25}
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "n"), [(0.01, 1), (0.1, 5)])
def test_users_are_drawn_by_the_seed(share: float, n: int) -> None:
    users = [f"u{number}" for number in range(50)]
    drawn = draw_users(users, share, seed=1)
    assert len(drawn) == n
    assert drawn <= {*users}
    assert drawn == draw_users(users[::-1], share, seed=1)
    assert drawn != draw_users(users, share, seed=3)


def test_the_docs_show_what_the_results_say() -> None:
    docs = (DOCS / "transfer.md").read_text(encoding="utf-8")
    assert transfer._table(transfer._read()["pairs"]) in docs
