"""The attack sees what it should: who was trained on, by losses, on the same items."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import privacy
from tests.data import CYCLE, write_atomic

_SMALL: dict[str, Any] = {
    "hidden_size": 16, "n_layers": 1, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "seed": 1,
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "id_dropout_prob": 0.0, "item_repr": "id",
    "learning_rate": 0.02, "use_gpu": False, "state": "ERROR", "eval_step": 0, "ema_decay": 0.0,
}  # fmt: skip


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    """Users who walk at random: a loss below chance is a memory."""
    draw = np.random.default_rng(0)
    walks = {f"u{n}": [CYCLE[i] for i in draw.integers(0, 12, 8)] for n in range(40)}
    write_atomic(tmp_path, "random", walks, {item: f"Film {item}" for item in CYCLE})
    return tmp_path


def _attack(data_path: Path, **settings: Any) -> dict[str, Any]:
    return privacy.membership("random", {**_SMALL, "data_path": str(data_path), **settings})


def test_a_model_that_knows_its_users_by_heart_gives_them_away(data_path: Path) -> None:
    told = _attack(data_path, epochs=150)
    assert (told["members"], told["others"]) == (20, 20)
    assert told["auc"] > 0.95
    assert told["loss"] < told["loss_of_others"]
    assert "epsilon" not in told


def test_a_model_that_learnt_nothing_does_not(data_path: Path) -> None:
    told = _attack(data_path, epochs=1, learning_rate=0.0)
    assert 0.3 < told["auc"] < 0.7
    private = {"epochs": 20, "privacy.epsilon": 1.0, "train_batch_size": 64}
    told = _attack(data_path, **private)
    assert told["epsilon"] <= 1.0
    assert told["auc"] < 0.8


def test_figures_are_means_over_seeds_of_what_is_there() -> None:
    rows: list[dict[str, Any]] = [
        {"part": "membership", "arm": "default", "auc": 0.7},
        {"part": "membership", "arm": "default", "auc": 0.6},
        {"part": "membership", "arm": "private", "auc": 0.51},
        {"part": "curve", "arm": "default", "ndcg@10": 0.1},
        {"part": "curve", "arm": "epsilon 8", "ndcg@10": 0.04, "epsilon": 7.9},
        {"part": "curve", "arm": "epsilon 1", "ndcg@10": 0.01, "epsilon": 0.9},
    ]
    assert privacy.figures(rows) == {
        "mia_auc_default": 0.65, "mia_auc_dp": 0.51, "epsilon": 7.9, "dp_ndcg_kept": 0.4
    }  # fmt: skip
    assert privacy.figures(rows[:1]) == {"mia_auc_default": 0.7}


def test_the_curve_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    rows = [
        {"part": "curve", "dataset": "some", "seed": seed, "arm": f"epsilon {epsilon}",
         "epsilon": epsilon, "ndcg@10": 0.01 * epsilon + 0.001 * seed}
        for epsilon in (1, 8)
        for seed in (1, 2)
    ]  # fmt: skip
    privacy.draw(rows[:0], tmp_path)
    assert not list(tmp_path.iterdir())
    free = {"part": "curve", "dataset": "some", "seed": 1, "arm": "default", "ndcg@10": 0.1}
    pictures = []
    for _ in range(2):
        privacy.draw([*rows, free], tmp_path)
        pictures.append((tmp_path / "privacy.svg").read_bytes())
    assert pictures[0] == pictures[1]
