"""The frozen network has the network's states, and its shares are its gradient times its input."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recbole_llm.layers import Reader, SequenceConfig, build_reader, score_vectors
from recbole_llm.scoring.frozen import freeze, score_shares
from tests.data import SEQUENCE

LENGTHS = torch.tensor([2, 5, 1])


_ATTENTION = [
    ("dot", 1, "gelu", "attention"), ("dot", 3, "relu", "attention"),
    ("cosine", 2, "gelu", "attention"),
]  # fmt: skip
_LINEAR = [("dot", 1, "gelu", "linear"), ("cosine", 1, "gelu", "linear")]


@pytest.fixture(params=[*_ATTENTION, *_LINEAR], ids=lambda p: f"{p[3]}-{p[0]}-{p[1]}")
def config(request: pytest.FixtureRequest) -> SequenceConfig:
    score, n_layers, activation, reader = request.param
    return replace(SEQUENCE, score=score, n_layers=n_layers, hidden_act=activation, reader=reader)


@pytest.fixture
def encoder(config: SequenceConfig) -> Reader:
    torch.manual_seed(0)
    encoder = build_reader(config).eval()
    with torch.no_grad():  # norms and biases that do something
        for weight in encoder.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn(weight.shape))
    return encoder


@pytest.fixture
def vectors() -> Tensor:
    """(B, L, H), where padding is no zero."""
    torch.manual_seed(1)
    return torch.randn(3, 5, SEQUENCE.hidden_size)


def test_states_are_the_network_s(encoder: Reader, config: SequenceConfig, vectors: Tensor) -> None:
    with torch.no_grad():
        expected = score_vectors(encoder.last_states(vectors, LENGTHS), config)
        found = freeze(encoder, config, vectors, LENGTHS).states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.enable_grad():
        found = freeze(encoder, config, vectors, LENGTHS).states
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_shares_are_gradient_times_input(
    encoder: Reader, config: SequenceConfig, vectors: Tensor
) -> None:
    targets = torch.randn(3, 4, SEQUENCE.hidden_size)
    found = score_shares(encoder, config, vectors, LENGTHS, targets)
    assert found.shape == (3, 4, 5)
    leaf = vectors.clone().requires_grad_()
    scores = torch.einsum(
        "bh,brh->br",
        freeze(encoder, config, leaf, LENGTHS).states,
        score_vectors(targets, config),
    )
    for rank in range(4):
        (gradient,) = torch.autograd.grad(scores[:, rank].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(
            found[:, rank], (gradient * vectors).sum(2), atol=1e-4, rtol=1e-4
        )


def test_padding_adds_nothing(encoder: Reader, config: SequenceConfig, vectors: Tensor) -> None:
    targets = torch.randn(3, 2, SEQUENCE.hidden_size)
    found = score_shares(encoder, config, vectors, LENGTHS, targets)
    for row, length in enumerate(LENGTHS.tolist()):
        assert not found[row, :, length:].any()
        alone = score_shares(
            encoder, config, vectors[row : row + 1, :length], LENGTHS[row : row + 1],
            targets[row : row + 1],
        )  # fmt: skip
        torch.testing.assert_close(found[row : row + 1, :, :length], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", _ATTENTION, indirect=True)
def test_an_item_that_is_left_out_of_all_maps_has_no_share(
    encoder: Reader, config: SequenceConfig, vectors: Tensor
) -> None:
    """A vector without spread is nothing behind the first norm but its place and the biases."""
    flat = vectors.clone()
    flat[1, 2] = 0.7
    found = score_shares(encoder, config, flat, LENGTHS, torch.randn(3, 2, SEQUENCE.hidden_size))
    torch.testing.assert_close(found[1, :, 2], torch.zeros(2), atol=1e-5, rtol=0)
