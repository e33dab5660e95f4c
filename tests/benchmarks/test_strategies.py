"""How sources are held against each other, by hand and on a cycle."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality.models import find_model
from benchmarks.quality.run import PROTOCOL, run
from benchmarks.quality.strategies import DatedSequences, Recent, choose_blend
from recbole_llm.lists.fusion import Ranked
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


@pytest.mark.parametrize("normalize_all", [False, True])
def test_recent_counts_the_week_before_the_target(tmp_path: Path, normalize_all: bool) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    day = 86_400
    events = [("a", "x", 0), ("a", "y", 1), ("a", "z", 12), ("a", "x", 13), ("a", "y", 14)]
    events += [("b", "y", 2), ("b", "x", 3), ("b", "z", 4), ("b", "z", 20), ("b", "x", 21)]
    lines = [f"{user}\t{item}\t{at * day}" for user, item, at in events]
    head = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "days.inter").write_text("\n".join([head, *lines]) + "\n")
    settings = {"data_path": str(tmp_path), "normalize_all": normalize_all}
    config = build_config("SASRec", "days", None, settings)
    dataset, (train, _, test) = build_data(config, DatedSequences)
    network = Recent(config, train._dataset)
    scores = network.full_sort_predict(test.dataset[torch.arange(2)]).round(decimals=3)
    # Training targets: y on day 1, z on 12; x on 3, z on 4. The targets are of days 14 and 21.
    tokens = dataset.id2token("item_id", np.arange(4)).tolist()
    at = dict(zip(tokens, scores.T.tolist(), strict=True))
    by_day = sorted(zip(*(at[item] for item in "xyz"), strict=True))
    assert by_day == [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0)]


def test_all_have_the_same_test_rows() -> None:
    found = []
    for name in ("pop", "recent", "llmseqrec-id", "blend"):
        entry = find_model(name)
        config = build_config(entry.model, "ml-100k", None, {**PROTOCOL, **entry.settings})
        data, (_, _, test) = build_data(config, entry.dataset_class())
        rows = test.dataset.inter_feat
        fields = (data.uid_field, data.iid_field)
        found.append([data.id2token(field, rows[field]).tolist() for field in fields])
    assert len(found[0][0]) == 943
    assert all(each == found[0] for each in found)


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
        assert outcome.model_ranks is not None
        assert outcome.model_ranks.shape == outcome.ranks.shape
        assert outcome.valid["ndcg@10"] > 0.5  # rules alone know the cycle
