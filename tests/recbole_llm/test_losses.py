import math

import pytest
import torch
from torch.nn import functional

from recbole_llm import losses
from recbole_llm.losses import (
    Adjustments,
    Targets,
    all_candidates,
    cross_entropy,
    next_items,
    one_target,
    sampled_candidates,
)


@pytest.fixture(params=[1, 7, 1 << 20])
def logits_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One position at a time, a few at a time with a rest, all at once."""
    monkeypatch.setitem(losses._CHUNK_LOGITS, "cpu", 3 * request.param)
    monkeypatch.setattr(losses, "_MIN_CHUNK", 1)


@pytest.mark.usefixtures("logits_at_once")
def test_value_and_gradients_are_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(10, 4, generator=generator, requires_grad=True)
    items = torch.randn(6, 4, generator=generator, requires_grad=True)
    values = torch.randn(5, generator=generator, requires_grad=True)
    weights = torch.randn(6, generator=generator)
    targets = torch.randint(0, 6, (10,), generator=generator)
    rows, columns = torch.tensor([0, 0, 3, 9, 9]), torch.tensor([1, 5, 2, 0, 4])

    adjustments = Adjustments(rows, columns, values)
    loss = cross_entropy(states, items, one_target(targets), adjustments, weights)
    logits = (states @ items.T + weights).index_put((rows, columns), values, accumulate=True)
    expected = functional.cross_entropy(logits, targets)

    torch.testing.assert_close(loss, expected)
    inputs = (states, items, values)
    for one, other in zip(
        torch.autograd.grad(loss * 3, inputs),
        torch.autograd.grad(expected * 3, inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("logits_at_once")
def test_several_targets_are_pytorchs_soft_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(10, 4, generator=generator, requires_grad=True)
    items = torch.randn(6, 4, generator=generator)
    targets = torch.randint(0, 6, (10, 3), generator=generator)  # some twice in a row
    shares = torch.rand(10, 3, generator=generator)
    shares = shares / shares.sum(1, keepdim=True)
    soft = torch.zeros(10, 6).scatter_add(1, targets, shares)

    loss = cross_entropy(states, items, Targets(targets, shares))
    expected = functional.cross_entropy(states @ items.T, soft)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, states), torch.autograd.grad(expected, states)
    )


@pytest.mark.usefixtures("logits_at_once")
@pytest.mark.parametrize("states_dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_gives_the_loss_of_full_precision(states_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(10, 4, generator=generator, requires_grad=True)
    items = torch.randn(6, 4, generator=generator, requires_grad=True)
    targets = one_target(torch.randint(0, 6, (10,), generator=generator))
    full = cross_entropy(states, items, targets)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cross_entropy(states.to(states_dtype), items, targets)
    assert mixed.dtype == torch.float32
    # bfloat16 keeps eight bits: products are right to about half a percent.
    torch.testing.assert_close(mixed, full, rtol=0.01, atol=0.01)
    inputs = (states, items)
    for one, other in zip(
        torch.autograd.grad(mixed, inputs), torch.autograd.grad(full, inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.01)


def test_the_next_items_are_targets_and_count_less_the_later_they_come() -> None:
    item_seq = torch.tensor([[7, 8, 9], [5, 0, 0]])
    targets = next_items(item_seq, torch.tensor([3, 1]), torch.tensor([4, 6]), 2, decay=0.25)
    assert targets.items[0].tolist() == [[8, 9], [9, 4], [4, 0]]
    assert targets.items[1, 0].tolist() == [6, 0]
    torch.testing.assert_close(
        targets.shares[0], torch.tensor([[0.8, 0.2], [0.8, 0.2], [1.0, 0.0]])
    )
    torch.testing.assert_close(targets.shares[1, 0], torch.tensor([1.0, 0.0]))


def test_all_candidates_are_the_items_met_in_training() -> None:
    is_known = torch.tensor([False, True, False, True])
    candidates = all_candidates(is_known)
    assert candidates.items.tolist() == [1, 3]
    assert candidates.log_weights is None
    assert candidates.columns(torch.tensor([3, 1])).tolist() == [1, 0]


def test_sampled_candidates_hold_the_batch_once_and_weigh_the_drawn() -> None:
    is_known = torch.ones(101, dtype=torch.bool)
    is_known[0] = is_known[50] = False  # padding, and an item nobody met
    candidates = sampled_candidates(is_known, torch.tensor([7, 0, 7, 9]), n_negatives=20)
    found = candidates.items.tolist()
    assert found == sorted(set(found))
    assert len(found) == 22
    assert {7, 9} <= set(found)
    assert not {0, 50} & set(found)
    assert candidates.log_weights is not None
    weights = dict(zip(found, candidates.log_weights.tolist(), strict=True))
    assert weights.pop(7) == weights.pop(9) == 0
    assert list(weights.values()) == pytest.approx([math.log(97 / 20)] * 20)


def test_a_sample_of_everything_is_the_full_loss() -> None:
    is_known = torch.ones(30, dtype=torch.bool)
    is_known[0] = False
    candidates = sampled_candidates(is_known, torch.tensor([3]), n_negatives=1000)
    assert candidates.items.tolist() == list(range(1, 30))
    assert candidates.log_weights is not None
    assert candidates.log_weights.abs().max() == 0


def test_the_sampled_partition_function_is_right_on_average() -> None:
    torch.manual_seed(0)
    scores = torch.randn(201)
    is_known = torch.ones(201, dtype=torch.bool)
    is_known[0] = False
    sums = []
    for _ in range(2000):
        items, log_weights = sampled_candidates(is_known, torch.tensor([5, 6]), n_negatives=40)
        assert log_weights is not None
        sums.append((scores[items] + log_weights).exp().sum())
    # The standard error of the mean is about 0.3%.
    assert torch.stack(sums).mean() == pytest.approx(scores[1:].exp().sum().item(), rel=0.015)
