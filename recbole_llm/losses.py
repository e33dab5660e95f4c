"""Cross-entropy over the catalogue, in full or sampled, without a positions-by-items matrix.

Sizes: N positions, M targets of each, V items including padding, C candidates, H hidden size, P score
adjustments.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK_LOGITS = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Logits made at once, numbers: what stays in a CPU's cache, and half a gibibyte of a GPU's memory."""

_MIN_CHUNK = 64
"""Positions at once, however large the catalogue: each chunk reads and writes all item vectors."""


class Adjustments(NamedTuple):
    """What is added to single scores; each (row, item) stands once and rows do not decrease."""

    rows: Tensor
    """(P,) int64 positions."""
    items: Tensor
    """(P,) int64 columns of the score matrix."""
    values: Tensor
    """(P,) float."""


def no_adjustments(states: Tensor) -> Adjustments:
    """Nothing to add, on the device of ``states``."""
    nothing = torch.zeros(0, dtype=torch.int64, device=states.device)
    return Adjustments(nothing, nothing, states.new_zeros(0))


class Targets(NamedTuple):
    """The items that a state should score highest."""

    items: Tensor
    """(N, M) int64 columns of the score matrix."""
    shares: Tensor
    """(N, M) float, what each counts; adds up to 1 over M, 0 where there are fewer than M."""


def one_target(items: Tensor) -> Targets:
    """(N,) int64 columns as the only targets."""
    return Targets(items.unsqueeze(1), torch.ones(len(items), 1, device=items.device))


def next_items(
    item_seq: Tensor, item_seq_len: Tensor, last: Tensor, n_targets: int, decay: float
) -> Targets:
    """The items after each position, the nearer the more important.

    Args:
        item_seq: (B, L) int64, right-padded with 0, of (B,) int64 lengths.
        last: (B,) int64, the item after each sequence.
        n_targets: M, items after a position that count.
        decay: what each counts against the one before it, in (0, 1].
    Returns:
        Targets of shape (B, L, M), items and not columns; what padding has is to be left out.
    Source: the dense all-action loss of PinnerFormer, arXiv:2205.04507, with weights that fall.
    """
    rows = torch.arange(len(item_seq), device=item_seq.device)
    following = functional.pad(item_seq[:, 1:], (0, n_targets))  # (B, L - 1 + M)
    following[rows, item_seq_len - 1] = last
    items = following.unfold(1, n_targets, 1)  # (B, L, M)
    weights = (items > 0) * decay ** torch.arange(n_targets, device=item_seq.device)
    return Targets(items, functional.normalize(weights, p=1.0, dim=-1))


class Candidates(NamedTuple):
    """The items among which a target is found."""

    items: Tensor
    """(C,) int64 catalogue rows, ascending."""
    log_weights: Tensor | None
    """(C,) float: how many items of the catalogue each one stands for, as a logarithm; None for
    one each."""

    def columns(self, items: Tensor) -> Tensor:
        """Where catalogue rows stand among the candidates; each must be there."""
        return torch.searchsorted(self.items, items)


def all_candidates(is_known: Tensor) -> Candidates:
    """Every item met in training: that nobody chose what nobody could is no evidence against it.

    Args:
        is_known: (V,) bool; False for padding.
    """
    return Candidates(is_known.nonzero().squeeze(1), None)


def sampled_candidates(is_known: Tensor, items: Tensor, n_negatives: int) -> Candidates:
    """The batch's own items and an even sample of the others.

    A sampled item stands for the ones that were not drawn, the batch's items for themselves, so the
    expected sum of exponentials is the whole catalogue's.
    Source: sampled softmax, Jean et al., arXiv:1412.2007.

    Args:
        is_known: (V,) bool; False for padding.
        items: (N,) int64, all items and targets of the batch.
        n_negatives: other items drawn.
    """
    is_own = torch.zeros_like(is_known)
    is_own[items] = True
    is_own[0] = False
    others = (is_known & ~is_own).nonzero().squeeze(1)
    n_drawn = min(n_negatives, len(others))
    drawn = others[torch.randperm(len(others), device=others.device)[:n_drawn]]
    found = is_own.clone()
    found[drawn] = True
    candidates = found.nonzero().squeeze(1)
    weight = len(others) / n_drawn if n_drawn else 1.0
    log_weights = torch.where(is_own[candidates], 0.0, math.log(weight))
    return Candidates(candidates, log_weights)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Makes, uses and forgets the logits of a few positions at a time, gradient included.

    PyTorch's ``cross_entropy`` keeps the (N, C) logits and a second matrix of their size for the
    backward pass. Their gradient is known as soon as they are, so it is taken in the same visit.
    Source: Cut Your Losses, arXiv:2411.09009.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, items: Tensor, targets: Tensor, shares: Tensor,
        rows: Tensor, columns: Tensor, values: Tensor, log_weights: Tensor | None,
    ) -> Tensor:  # fmt: skip
        n, c = len(states), len(items)
        chunk = max(_MIN_CHUNK, _CHUNK_LOGITS.get(states.device.type, 1 << 20) // c)
        starts = torch.arange(0, n + chunk, chunk, device=rows.device)
        cuts = torch.searchsorted(rows, starts).tolist()
        loss = states.new_zeros((), dtype=torch.float32)
        states_grad, values_grad = torch.empty_like(states), torch.empty_like(values)
        items_grad = items.new_zeros(items.shape[1], c, dtype=torch.float32)
        columns_first = items.T.contiguous()  # a product with it takes half the time on a CPU
        for number, start in enumerate(range(0, n, chunk)):
            part = states[start : start + chunk]
            wanted = targets[start : start + chunk]  # (chunk, M)
            counted = shares[start : start + chunk]  # (chunk, M)
            logits = part @ columns_first  # (chunk, C), in half precision under autocast
            if log_weights is not None:
                logits += log_weights
            own = slice(cuts[number], cuts[number + 1])
            places = (rows[own] - start) * c + columns[own]
            logits.view(-1).index_add_(0, places, values[own].to(logits.dtype))
            log_probs = logits.log_softmax(1, dtype=torch.float32)
            loss -= (log_probs.gather(1, wanted) * counted).sum()
            # The gradient of the loss by the logits: probabilities less the targets.
            is_half = logits.dtype != torch.float32
            gradient = torch.exp(log_probs, out=logits if is_half else log_probs)
            gradient.scatter_add_(1, wanted, -counted.to(gradient.dtype))
            values_grad[own] = gradient.view(-1)[places].to(values.dtype)
            states_grad[start : start + chunk] = gradient @ items
            if is_half:
                items_grad += part.T @ gradient
            else:
                items_grad.addmm_(part.T, gradient)
        items_grad = (items_grad.T / n).to(items.dtype)
        ctx.save_for_backward(states_grad / n, items_grad, values_grad / n)
        return loss / n

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        states_grad, items_grad, values_grad = ctx.saved_tensors
        return (
            states_grad * gradient.to(states_grad.dtype), items_grad * gradient.to(items_grad.dtype),
            None, None, None, None, values_grad * gradient.to(values_grad.dtype), None,
        )  # fmt: skip


def cross_entropy(
    states: Tensor,
    items: Tensor,
    targets: Targets,
    adjustments: Adjustments | None = None,
    log_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of each state's targets against the candidates.

    Args:
        states: (N, H) float.
        items: (C, H) float vectors of the candidates.
        targets: rows of ``items``.
        adjustments: added to the scores before the softmax; items are rows of ``items``.
        log_weights: (C,) float, added to every state's scores.
    Returns:
        Scalar float32, in nats. Memory: some H·(N + C) numbers and a few megabytes of logits.
    """
    adjustments = adjustments or no_adjustments(states)
    apply: Any = _ChunkedCrossEntropy.apply
    loss: Tensor = apply(states, items, *targets, *adjustments, log_weights)
    return loss


def pairwise_loss(states: Tensor, better: Tensor, worse: Tensor) -> Tensor:
    """How far one item of each pair scores above the other: mean of -log sigmoid of the difference.

    Source: BPR, Rendle et al., arXiv:1205.2618.

    Args:
        states, better, worse: (P, H) float.
    Returns:
        Scalar, in nats.
    """
    return functional.softplus((states * (worse - better)).sum(-1)).mean()
