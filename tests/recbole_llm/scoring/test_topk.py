"""Exact top items, whatever the sizes of catalogue, groups, blocks and batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_llm.losses import Adjustments, no_adjustments
from recbole_llm.scoring import topk
from recbole_llm.scoring.topk import TopItems


def _reference(
    states: Tensor, items: Tensor, bias: Tensor, rows: Tensor, adjustments: Adjustments
) -> Tensor:
    """(B, V) float64 scores."""
    scores = states.double() @ items.double().T + bias.double()
    scores[adjustments.rows, adjustments.items] += adjustments.values.double()
    allowed = torch.full((len(items),), -torch.inf).double()
    allowed[rows] = 0
    return scores + allowed


@pytest.mark.parametrize(("kept", "is_rough"), [(32_768, False), (0, False), (0, True)])
@settings(max_examples=60, deadline=None)
@given(
    n_items=st.sampled_from([3, 16, 17, 255, 256, 257, 2_048, 5_000]),
    n_states=st.sampled_from([1, 2, 33]),
    k=st.sampled_from([1, 2, 20, 100]),
    share=st.sampled_from([0.3, 1.0]),
    seed=st.integers(0, 1_000),
)
def test_equals_a_float64_reference(
    kept: int, is_rough: bool, n_items: int, n_states: int, k: int, share: float, seed: int
) -> None:
    torch.manual_seed(seed)
    items, bias = torch.randn(n_items + 1, 8), torch.randn(n_items + 1)
    states = torch.randn(n_states, 8)
    rows = 1 + (torch.rand(n_items) < share).nonzero().squeeze(1)
    pairs = torch.randint(0, n_states * n_items, (40,)).unique()
    values = torch.where(torch.rand(len(pairs)) < (1 if seed % 2 else 0.5), -torch.inf, 3.0)
    added = Adjustments(pairs // n_items, 1 + pairs % n_items, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "_KEPT", kept)
        patch.setattr(
            topk, "_SCORES", {"cpu": 600}
        )  # blocks of two spans for one state, of one else
        patch.setattr(topk, "_ROUGH_FROM", {"unit": kept})
        patch.setattr(topk, "bfloat16_unit", lambda: "unit" if is_rough else None)
        patch.setattr(topk, "_SPARE", 3)
        ranker = TopItems(items, bias, rows)
    k = min(k, len(rows))
    if k == 0:
        return
    for _ in range(2):  # its memory is used again
        scores, found = ranker(states, added, k)
        expected = _reference(states, items, bias, rows, added)
        best = expected.topk(k).values
        torch.testing.assert_close(scores.double(), best, atol=1e-5, rtol=0)
        # The same items, but for those whose scores are as close.
        torch.testing.assert_close(expected.gather(1, found), best, atol=1e-5, rtol=0)
        for row, is_left in zip(found, best > -torch.inf, strict=True):
            assert len(row[is_left].unique()) == is_left.sum()


def test_more_wanted_than_there_are() -> None:
    ranker = TopItems(torch.randn(5, 8), torch.zeros(5), torch.tensor([2, 4]))
    nothing = Adjustments(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))  # fmt: skip # noqa: E501
    scores, rows = ranker(torch.randn(3, 8), nothing, 4)
    assert (scores > -torch.inf).sum(1).tolist() == [2, 2, 2]
    assert {frozenset(best[:2].tolist()) for best in rows} == {frozenset({2, 4})}


@pytest.mark.parametrize(("size", "of_unknown"), [(1.0, 0.0), (1e-3, 0.0), (1.0, -1e4)])
def test_a_rough_look_is_sure_for_small_scores_and_among_unknown_items(
    size: float, of_unknown: float
) -> None:
    torch.manual_seed(0)
    bias = torch.zeros(20_001)
    bias[10_000:] = of_unknown
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "_KEPT", 0)
        patch.setattr(topk, "_SCORES", {"cpu": 8 * 2048})
        patch.setattr(topk, "_ROUGH_FROM", {"unit": 0})
        patch.setattr(topk, "bfloat16_unit", lambda: "unit")
        ranker = TopItems(torch.randn(20_001, 64), bias)
    states = torch.cat([size * torch.randn(8, 64), torch.ones(8, 1)], dim=1)
    *_, is_sure = ranker._look_roughly(states, no_adjustments(states), 20)
    assert is_sure.all()
