"""How sources are held against each other, by hand and on a cycle."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality.models import find_model
from benchmarks.quality.run import run
from benchmarks.quality.strategies import Recent, choose_blend
from recbole_llm.lists.fusion import Ranked
from recbole_llm.sequences import WholeSequenceDataset
from recbole_llm.train import build_config, build_data
from tests.data import write_cycle


def _ranked(*items: list[int]) -> Ranked:
    scores = np.tile(np.arange(len(items[0]), 0, -1, dtype=np.float32), (len(items), 1))
    return Ranked(np.array(items), scores)


def test_a_source_joins_where_it_helps_and_no_other_does() -> None:
    lists = {
        "model": _ranked([1, 2], [3, 4]), "content": _ranked([5, 6], [7, 8]),
        "popular": _ranked([90, 91], [90, 91]),
    }  # fmt: skip
    # Each has one user's item on top; together one stands first and the other second.
    assert choose_blend(lists, np.array([1, 7])) == {
        "sources": {"model": 1.0, "content": 1.0}, "fusion": "rank"
    }  # fmt: skip
    assert choose_blend(lists, np.array([1, 3])) == {"sources": {"model": 1.0}, "fusion": "rank"}
    assert choose_blend(lists, np.array([90, 90])) == {
        "sources": {"popular": 1.0}, "fusion": "rank"
    }  # fmt: skip


def test_recent_counts_the_week_before_the_target(tmp_path: Path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    day = 86_400
    events = [("a", "x", 0), ("a", "y", 1), ("a", "z", 12), ("a", "x", 13), ("a", "y", 14)]
    events += [("b", "y", 2), ("b", "x", 3), ("b", "z", 4), ("b", "z", 20), ("b", "x", 21)]
    lines = [f"{user}\t{item}\t{at * day}" for user, item, at in events]
    head = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "days.inter").write_text("\n".join([head, *lines]) + "\n")
    config = build_config("SASRec", "days", None, {"data_path": str(tmp_path)})
    dataset, (train, _, test) = build_data(config, WholeSequenceDataset)
    network = Recent(config, train._dataset)
    scores = network.full_sort_predict(test.dataset[torch.arange(2)]).round(decimals=3)
    # Training targets: y on day 1, z on 12; x on 3, z on 4. The targets are of days 14 and 21.
    tokens = dataset.id2token("item_id", np.arange(4)).tolist()
    at = dict(zip(tokens, scores.T.tolist(), strict=True))
    by_day = sorted(zip(*(at[item] for item in "xyz"), strict=True))
    assert by_day == [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0)]


@pytest.mark.parametrize("name", ["content", "collaborative", "recent", "blend"])
def test_each_runs_in_recboles_evaluation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cycle(tmp_path)
    settings = {"encoder": "tfidf"} if name in ("content", "blend") else {}
    outcome = run(find_model(name), "cycle", str(tmp_path), 1, {**settings, "epochs": 1})
    assert outcome.users
    if name == "collaborative":
        assert outcome.test["recall@10"] == 1.0
    assert (outcome.blend is not None) == (name == "blend")
    if outcome.blend:
        assert outcome.valid["ndcg@10"] > 0.5  # rules alone know the cycle
