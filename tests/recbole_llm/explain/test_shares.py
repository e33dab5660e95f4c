"""Shares add up to the score, and each is zero where there is nothing to share."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recbole_llm.explain.shares import shares
from recbole_llm.item_parts import ItemParts, TextPart, read_parts
from recbole_llm.scoring import Scorer, load_scorer
from tests.data import SEQUENCE, random_artifact

IDS = [f"i{n}" for n in range(30)]


def _parts(scorer: Scorer) -> ItemParts:
    """Half of each item's vector, and some noise, called a text."""
    items = scorer.item_vectors
    vectors = (0.5 * items + 0.1 * torch.randn(items.shape)).half()
    vectors[0] = 0
    nothing = torch.zeros(1, items.shape[1])
    text = TextPart("reader", nothing, nothing[0], vectors[1:].float().mean(0), vectors)
    return ItemParts(["text"] * len(IDS), True, [text])


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("read", [[3, 1, 4, 15, 9], [2]])
def test_shares_and_baseline_add_up_to_the_score(score: str, read: list[int]) -> None:
    torch.manual_seed(0)
    scorer = Scorer(random_artifact(IDS, config=replace(SEQUENCE, score=score)))
    parts = _parts(scorer)
    for item in (7, 20):
        found = shares(scorer, parts, read, item)
        assert list(found.of) == [
            "item id", "item reader", "history id", "history reader", "position", "item bias",
            "met before",
        ]  # fmt: skip
        told = sum(found.of.values()) + found.baseline
        assert found.score == pytest.approx(_score(scorer, read, item), abs=1e-4)
        lifted = abs(found.score - found.baseline - found.of["item bias"])
        assert abs(told - found.score) < 0.05 * lifted
        assert abs(told - found.score) == pytest.approx(found.completeness_error * lifted, abs=1e-4)


def _score(scorer: Scorer, read: list[int], item: int) -> float:
    top = scorer.top_k([[IDS[row - 1] for row in read]], len(IDS), exclude_seen=False)
    return float(top.scores[0][top.item_ids[0].index(IDS[item - 1])])


def test_nothing_to_share() -> None:
    scorer = Scorer(random_artifact(IDS))
    with torch.no_grad():  # all places alike: the order is worth nothing
        scorer.sequence_encoder.position_embedding.weight[:] = 0.3
    found = shares(scorer, ItemParts([""] * len(IDS), True, []), [3, 1, 4], 9)
    assert list(found.of) == ["item id", "history id", "position", "item bias", "met before"]
    assert found.of["position"] == pytest.approx(0, abs=1e-6)
    assert found.of["met before"] == 0
    assert found.of["item bias"] == float(scorer.artifact.item_bias[9])


def test_what_was_met_before_has_the_bias_of_its_lag() -> None:
    scorer = Scorer(random_artifact(IDS))
    parts = ItemParts([""] * len(IDS), True, [])
    # 10 * 0.3 for the last item, 10 * -0.2 for an older one
    assert shares(scorer, parts, [3, 1, 4], 4).of["met before"] == pytest.approx(3, abs=1e-4)
    assert shares(scorer, parts, [3, 1, 4], 3).of["met before"] == pytest.approx(-2, abs=1e-4)


def test_of_a_trained_model(trained: Path) -> None:
    scorer = load_scorer(trained)
    parts = read_parts(trained, scorer.artifact)
    rows = [scorer.row(item) for item in ("i3", "i4", "i5")]
    found = shares(scorer, parts, rows, scorer.row("i6"))
    assert found.completeness_error < 0.05
    told = sum(found.of.values()) + found.baseline
    assert told == pytest.approx(found.score, rel=0.05)
