"""The sequence encoder as the linear map that it is for one history.

What a layer norm divides by, where attention looks and how far an activation lets through are taken as
they came out and held there. What is left is linear in the item vectors, with the same value. Its
gradient times its input shares the score out over the items exactly, positions and biases apart.

The gradient of the network itself would not: a layer norm gives the same for a longer vector, so that
gradient and input are at right angles in front of each, and a saturated softmax has none at all.

Source: Ali et al., ICML 2022, arXiv:2202.07304, whose rules for norms and attention these are; the rule
for activations is that of layer-wise relevance propagation, Bach et al., PLOS ONE 2015.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_llm.layers import Reader, SequenceConfig, score_vectors
from recbole_llm.linear_reader import LinearReader

_TINY = 1e-30
"""Keeps zero over zero from being no number."""


@dataclass(frozen=True)
class FrozenBlock:
    """What one block does to one batch, beside its weights; Q is L, or 1 in the last block."""

    scale_1: Tensor
    """(B, L, 1) float, one over what its first norm divides by."""
    looks: Tensor
    """(B, heads, Q, L) float, attention weights."""
    scale_2: Tensor
    """(B, Q, 1) float, of its second norm."""
    lets: Tensor
    """(B, Q, inner_size) float, the share that its activation lets through."""


@dataclass(frozen=True)
class FrozenPass:
    """What the network does to one batch."""

    states: Tensor
    """(B, H) float last states, ready to be multiplied by ready item vectors. They carry the gradient
    of the frozen network."""
    scale_in: Tensor
    """(B, L, 1) float, of the norm in front of the blocks."""
    blocks: list[FrozenBlock]
    scale_out: Tensor
    """(B, 1) float, of the norm behind them, and of a cosine."""


def freeze(
    encoder: Reader, config: SequenceConfig, item_vectors: Tensor, lengths: Tensor
) -> FrozenPass:
    """Read sequences and hold what is not linear.

    Args:
        item_vectors: (B, L, H) float, right-padded with anything finite.
        lengths: (B,) int64, at least 1 and at most L.
    Returns:
        The pass, whose states are ``score_vectors`` of the reader's ``last_states``.
    """
    if isinstance(encoder, LinearReader):
        last = encoder.last_states(item_vectors, lengths)
        longer = _longer(last, config)
        return FrozenPass(last * longer, torch.ones_like(item_vectors[..., :1]), [], longer)
    places = torch.arange(item_vectors.shape[1], device=item_vectors.device)
    sequences = torch.arange(len(lengths), device=lengths.device)
    is_seen = (places <= places.unsqueeze(1))[None, None]  # (1, 1, L, L)
    states, scale_in = _norm(encoder.input_norm, item_vectors + encoder.position_embedding(places))
    held, blocks = [], _blocks(encoder)
    for number, block in enumerate(blocks, start=1):
        normed, scale_1 = _norm(block.norm1, states)
        asking = normed
        if number == len(blocks):  # the last states alone are wanted
            asking = normed[sequences, lengths - 1].unsqueeze(1)  # (B, 1, H)
            states = states[sequences, lengths - 1].unsqueeze(1)
            is_seen = (places < lengths.unsqueeze(1))[:, None, None]  # (B, 1, 1, L)
        looks = _looks(block.self_attn, asking, normed, is_seen)  # (B, heads, Q, L)
        weight, bias = _part(block.self_attn, 2)
        values = _by_head(functional.linear(normed, weight, bias), encoder.n_heads)
        read = (looks @ values).transpose(1, 2).flatten(2)  # (B, Q, H)
        states = states + block.self_attn.out_proj(read)
        normed, scale_2 = _norm(block.norm2, states)
        inner = block.linear1(normed)
        with torch.no_grad():
            lets = block.activation(inner) / (inner + _TINY)
        states = states + block.linear2(inner * lets)
        held.append(FrozenBlock(scale_1, looks, scale_2, lets))
    last, scale_out = _norm(encoder.output_norm, states.squeeze(1))
    longer = _longer(last, config)
    return FrozenPass(last * longer, scale_in, held, scale_out * longer)


@torch.no_grad()
def _longer(last: Tensor, config: SequenceConfig) -> Tensor:
    """(B, 1) what states are multiplied by to be ready."""
    ready = score_vectors(last, config)
    longer: Tensor = ready.norm(dim=1, keepdim=True) / (last.norm(dim=1, keepdim=True) + _TINY)
    return longer


@torch.no_grad()
def score_shares(
    encoder: Reader,
    config: SequenceConfig,
    item_vectors: Tensor,
    lengths: Tensor,
    targets: Tensor,
) -> Tensor:
    """The share that each place of B sequences has in the scores of R items each.

    The gradient of the frozen network times its input, for R items at once: the transposed network, in
    which a norm is a centred matrix and a number a place.

    Args:
        item_vectors: (B, L, H) float, right-padded with anything finite.
        lengths: (B,) int64, at least 1 and at most L.
        targets: (B, R, H) float item vectors, not ready.
    Returns:
        (B, R, L) float; padding adds zero.
    """
    held = freeze(encoder, config, item_vectors, lengths)
    if isinstance(encoder, LinearReader):
        ready = score_vectors(targets, config) * held.scale_out.unsqueeze(1)
        return encoder.shares(item_vectors, lengths, ready)
    sequences = torch.arange(len(lengths), device=lengths.device)
    last = _centred(encoder.output_norm, score_vectors(targets, config))
    gradients = (last * held.scale_out.unsqueeze(1)).unsqueeze(2)  # (B, R, 1, H)
    steps = list(zip(_blocks(encoder), held.blocks, strict=True))
    for number, (block, frozen) in enumerate(reversed(steps)):
        inner = gradients @ block.linear2.weight  # (B, R, Q, inner_size)
        inner *= frozen.lets.unsqueeze(1)
        through = inner @ _centred(block.norm2, block.linear1.weight)
        gradients = gradients + through.mul_(frozen.scale_2.unsqueeze(1))
        of_read = gradients @ block.self_attn.out_proj.weight  # (B, R, Q, H)
        of_read = of_read.unflatten(3, (encoder.n_heads, -1)).permute(0, 3, 2, 1, 4)
        # The ranks stand side by side, so that one product serves them: (B, heads, L, R · H / heads)
        of_values = frozen.looks.transpose(2, 3) @ of_read.flatten(3)
        of_values = of_values.unflatten(3, of_read.shape[3:]).permute(0, 3, 2, 1, 4).flatten(3)
        weight, _ = _part(block.self_attn, 2)
        before = of_values @ _centred(block.norm1, weight)
        before *= frozen.scale_1.unsqueeze(1)
        if number:
            gradients = before.add_(gradients)
        else:
            before[sequences, :, lengths - 1] += gradients.squeeze(2)
            gradients = before
    inputs = item_vectors - item_vectors.mean(2, keepdim=True)
    inputs = inputs * encoder.input_norm.weight * held.scale_in
    return torch.einsum("brlh,blh->brl", gradients, inputs)


def _blocks(encoder: Any) -> list[Any]:
    return list(encoder.blocks)


def _norm(norm: nn.LayerNorm, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Normed vectors, and (..., 1) the number that each was multiplied by."""
    weight, bias = norm.weight, norm.bias
    with torch.no_grad():
        normed, _, scale = torch.native_layer_norm(
            vectors, norm.normalized_shape, weight, bias, norm.eps
        )
    if torch.is_grad_enabled():
        normed = (vectors - vectors.mean(-1, keepdim=True)) * scale * weight + bias
    return normed, scale


def _centred(norm: nn.LayerNorm, rows: Tensor) -> Tensor:
    """Rows that are multiplied by normed vectors, for vectors that are scaled alone."""
    rows = rows * norm.weight
    return rows - rows.mean(-1, keepdim=True)


@torch.no_grad()
def _looks(attention: Any, asking: Tensor, asked: Tensor, is_seen: Tensor) -> Tensor:
    queries, keys = (
        _by_head(functional.linear(vectors, *_part(attention, part)), attention.num_heads)
        for part, vectors in enumerate((asking, asked))
    )
    logits = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
    looks: Tensor = logits.masked_fill_(~is_seen, -torch.inf).softmax(-1)
    return looks


def _part(attention: Any, part: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of the queries (0), keys (1) or values (2)."""
    return attention.in_proj_weight.chunk(3)[part], attention.in_proj_bias.chunk(3)[part]


def _by_head(vectors: Tensor, n_heads: int) -> Tensor:
    """(B, L, H) to (B, heads, L, H / heads)."""
    return vectors.view(*vectors.shape[:2], n_heads, -1).transpose(1, 2)
