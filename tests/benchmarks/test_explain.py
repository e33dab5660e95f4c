"""The figures, the picture, and a small model measured from its training on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.explain import draw, figures, measure
from tests.data import write_atomic


def test_the_figures_are_the_worst_of_all_sets() -> None:
    good = {
        "users": 900, "deletion_advantage": 9.0, "deletion_advantage_left_out": 8.0,
        "completeness_error": 0.01, "completeness_error_largest": 0.02, "cost_over_scoring": 2.0,
    }  # fmt: skip
    bad = {**good, "users": 500, "deletion_advantage": 3.0, "completeness_error": 0.03}
    assert figures({"a": good, "b": {**bad, "cost_over_scoring": 2.5, "curve": {}}}) == {
        "users": 500, "deletion_advantage": 3.0, "deletion_advantage_left_out": 8.0,
        "completeness_error": 0.03, "completeness_error_largest": 0.02, "cost_over_scoring": 2.5,
    }  # fmt: skip


def test_a_small_model(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    items = [f"i{n}" for n in range(15)]
    walks = {f"u{n}": generator.permutation(items)[:11].tolist() for n in range(30)}
    walks["short"] = items[:5]
    write_atomic(tmp_path, "small", walks, {item: f"Film {item}" for item in items})
    settings: dict[str, Any] = {
        "data_path": str(tmp_path), "encoder": "tfidf", "text_size": 4, "hidden_size": 16,
        "n_layers": 1, "inner_size": 16, "epochs": 2, "show_progress": False,
    }  # fmt: skip
    row = measure("small", settings, None, 20, repeats=1)
    assert row["users"] == 20
    views = ["left out", "gradient x input", "attention", "newest", "at random"]
    assert [*row["curve"]] == views
    assert all(len(falls) == 4 for falls in row["curve"].values())
    # By definition no single item costs more than the one that leaving out names.
    first = {view: falls[0] for view, falls in row["curve"].items()}
    assert max(first.values()) == first["left out"]
    assert row["completeness_error_largest"] < 0.05
    # A mean of shares is the mean score, up to what they are off.
    assert sum(row["mean_shares"].values()) == pytest.approx(row["score"], rel=0.05, abs=0.01)
    draw({"small": row}, tmp_path)
    picture = (tmp_path / "explain.svg").read_bytes()
    draw({"small": row}, tmp_path)
    assert (tmp_path / "explain.svg").read_bytes() == picture
