"""Which items are alike by their texts, and how far an item's ID vector leans on theirs.

An ID vector learnt from two events says little; those of items with like texts say something. An
item's ID is therefore read as an average of its own and its neighbors', weighted as in a Bayesian
mean: its own counts as often as the item was met, the neighbors' mean a fixed number of times. An
item that nobody has met has its neighbors' mean alone. Among the neighbors the nearest counts most,
the more so the nearer it is: a plain mean of ten differing vectors is too short to rank.

Sources: mapping attributes to factors by nearest neighbors, Gantner et al., ICDM 2010; case
amplification, Breese et al., UAI 1998; a frozen graph of like items under trained IDs, FREEDOM,
arXiv:2211.06924.
"""

import torch
from torch import Tensor
from torch.nn import functional

_AMPLIFICATION = 8
"""The power of the cosine that weighs a neighbor."""
_BLOCK = 2**22
"""Similarities held at once."""


def text_neighbors(
    text_vectors: Tensor, is_known: Tensor, n_neighbors: int
) -> tuple[Tensor, Tensor]:
    """Find each item's nearest known items by cosine, itself apart.

    Exact: V times the number of known items dot products, in blocks, on the vectors' device.

    Args:
        text_vectors: (V, E) float; row 0 is padding.
        is_known: (V,) bool, items met in training that have a text; False for padding.
    Returns:
        (V, K) int64 neighbors, the nearest first, and (V, K) float their weights, which add up to 1.
        K is the smaller of ``n_neighbors`` and the known items less one, at least 0.
    """
    known = is_known.nonzero().squeeze(1)
    count = max(min(n_neighbors, len(known) - 1), 0)
    unit = functional.normalize(text_vectors, dim=1)
    column = torch.zeros_like(is_known, dtype=torch.int64)
    column[known] = torch.arange(len(known), device=known.device)
    found, weights = [], []
    step = max(_BLOCK // len(unit), 1)
    for start in range(0, len(unit), step):
        rows = slice(start, start + step)
        similarity = unit[rows] @ unit[known].T
        own = is_known[rows].nonzero().squeeze(1)
        similarity[own, column[rows][own]] = -torch.inf
        nearest = similarity.topk(count, dim=1)
        found.append(known[nearest.indices])
        amplified = nearest.values.clamp(min=1e-3) ** _AMPLIFICATION
        weights.append(amplified / amplified.sum(1, keepdim=True))
    return torch.cat(found), torch.cat(weights)


def id_shares(counts: Tensor, has_neighbors: Tensor, prior: float) -> Tensor:
    """How an item's ID vector is put together.

    Args:
        counts: (V,) training events of each item, in whole or not; 0 for padding.
        has_neighbors: (V,) bool; an item without neighbors stands by its own ID.
        prior: events that the neighbors' mean weighs.
    Returns:
        (V, 2) float32 shares of an item's own ID and of its neighbors' mean. They add up to 1, or to
        0 for padding and for an item with neither events nor neighbors.
    """
    weights = torch.stack([counts.float(), prior * has_neighbors.float()], dim=1)
    return functional.normalize(weights, p=1.0, dim=1)
