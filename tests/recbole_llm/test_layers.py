from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from recbole_llm.adaptors import ADAPTORS
from recbole_llm.catalogue import Catalogue
from recbole_llm.layers import (
    ItemEncoder,
    RepeatBias,
    SequenceEncoder,
    last_states,
)
from recbole_llm.weighted_rows import weighted_rows
from tests.data import SEQUENCE


def _catalogue(
    shares: Tensor, neighbors: Tensor, weights: Tensor, text: Tensor | None
) -> Catalogue:
    """What the item encoder reads; the rest is of no matter to it."""
    nothing = torch.zeros(len(shares))
    return Catalogue(nothing.bool(), nothing, shares, neighbors, weights, text)


def test_repeat_bias_counts_an_item_at_its_latest_place() -> None:
    bias = RepeatBias(3)
    bias.weight.data = torch.tensor([0.1, 0.2, 0.3])
    item_seq = torch.tensor([[5, 6, 5, 7, 8, 0]])
    # After the third item 5 is the last one; after the fifth it is two items back, 6 is three back.
    rows, positions = torch.tensor([0, 0]), torch.tensor([2, 4])
    states, items, values = bias(item_seq, rows, positions)
    found = {
        (state, item): round(value, 4)
        for state, item, value in zip(states.tolist(), items.tolist(), values.tolist(), strict=True)
    }
    assert found == {
        (0, 6): 2.0, (0, 5): 1.0,
        (1, 6): 3.0, (1, 5): 3.0, (1, 7): 2.0, (1, 8): 1.0,
    }  # fmt: skip
    assert len(states) == len(found)  # each pair once


@pytest.mark.parametrize("adaptor", list(ADAPTORS))
def test_an_item_is_its_text_its_id_and_its_neighbors_ids(adaptor: str) -> None:
    torch.manual_seed(0)
    encoder = ItemEncoder(4, 8, [5], True, adaptor, 0.0, 0.02)
    text = torch.randn(4, 5)
    text[0] = text[1] = 0
    shares = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    neighbors = torch.tensor([[1, 2], [2, 3], [1, 3], [1, 2]])
    weights = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.8, 0.2], [0.3, 0.7]])
    catalogue = _catalogue(shares, neighbors, weights, text)
    vectors = encoder(torch.arange(4), catalogue)
    assert encoder.id_embedding is not None
    assert encoder.adaptor is not None
    ids, adapted = encoder.id_embedding.weight, encoder.adaptor(text)
    torch.testing.assert_close(vectors[0], torch.zeros(8))
    torch.testing.assert_close(vectors[1], ids[1])  # no text: its own ID
    borrowed = 0.8 * ids[1] + 0.2 * ids[3]
    torch.testing.assert_close(vectors[2], 0.25 * ids[2] + 0.75 * borrowed + adapted[2])
    torch.testing.assert_close(
        vectors[3], 0.3 * ids[1] + 0.7 * ids[2] + adapted[3]
    )  # nobody met it
    some = encoder(torch.tensor([3, 1]), catalogue)
    torch.testing.assert_close(some, vectors[[3, 1]])


def test_without_neighbors_an_id_stands_alone() -> None:
    encoder = ItemEncoder(3, 8, [], True, "linear", 0.0, 0.02)
    shares = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    none = _catalogue(shares, torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0), None)
    vectors = encoder(torch.arange(3), none)
    assert encoder.id_embedding is not None
    torch.testing.assert_close(vectors, encoder.id_embedding.weight * shares[:, :1])


def test_weighted_rows_are_an_embedding_bag_to_the_gradient() -> None:
    torch.manual_seed(0)
    table = torch.randn(7, 3, requires_grad=True)
    rows = torch.tensor([[5, 1], [1, 1], [3, 5]])  # rows 0, 2, 4 and 6 stand in no sum
    weights = torch.rand(3, 2)
    gradient = torch.randn(3, 3)
    expected = functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
    (expected_grad,) = torch.autograd.grad(expected, table, gradient)
    found = weighted_rows(table, rows, weights)
    (found_grad,) = torch.autograd.grad(found, table, gradient)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_grad, expected_grad)


def test_id_dropout_leaves_the_neighbors_in_training_alone() -> None:
    torch.manual_seed(0)
    encoder = ItemEncoder(1001, 4, [3], True, "linear", 0.3, 0.02)
    assert encoder.id_embedding is not None
    with torch.no_grad():
        encoder.id_embedding.weight[1:] = 1.0
        encoder.id_embedding.weight[0] = 5.0  # stands for the neighbor of them all
    shares = torch.tensor([[1.0, 0.0]] * 501 + [[0.5, 0.5]] * 500)
    neighbors = torch.zeros(1001, 1, dtype=torch.int64)
    catalogue = _catalogue(shares, neighbors, torch.ones(1001, 1), torch.zeros(1001, 3))
    vectors = encoder(torch.arange(1, 1001), catalogue)[:, 0]
    assert (vectors[:500] == 1).all()  # without neighbors the ID stays
    assert set(vectors[500:].tolist()) == {3.0, 5.0}
    assert (vectors[500:] == 5).float().mean() == pytest.approx(0.3, abs=0.07)
    assert (encoder.eval()(torch.arange(501, 1001), catalogue) == 3).all()


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=40),
    n_layers=st.integers(1, 3),
    hidden_act=st.sampled_from(["gelu", "relu"]),
)
def test_last_states_are_those_of_whole_sequences(
    lengths: list[int], n_layers: int, hidden_act: str
) -> None:
    torch.manual_seed(len(lengths))
    config = replace(SEQUENCE, n_layers=n_layers, hidden_act=hidden_act)
    encoder = SequenceEncoder(config).eval()
    items = torch.randn(9, config.hidden_size)
    length = torch.tensor(lengths)
    is_real = torch.arange(max(lengths)) < length.unsqueeze(1)
    item_seq = torch.randint(1, 9, is_real.shape) * is_real
    with torch.no_grad():
        whole = encoder(items[item_seq[is_real]], length)[length.cumsum(0) - 1]
        torch.testing.assert_close(
            last_states(encoder, items, item_seq, length), whole, atol=1e-5, rtol=1e-5
        )
