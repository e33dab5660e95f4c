"""Which items are near which, for lists without a network: by their texts, and by what followed."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_llm.neighbors import text_neighbors
from recbole_llm.scoring.item_neighbors import N_KEPT, ItemNeighbors

_STEPS = 10
"""How far after an item another one counts."""


def content_neighbors(text_vectors: Tensor) -> ItemNeighbors:
    """The items with the likest texts, for lists without a network; none for an item without text.

    Args:
        text_vectors: (V, E) float; row 0 is padding.
    """
    has_text = text_vectors.any(1)
    items, weights = text_neighbors(text_vectors, has_text, N_KEPT)
    weights = weights * has_text.unsqueeze(1)
    return ItemNeighbors(items.int().cpu().numpy(), weights.float().cpu().numpy())


def following_items(
    sequences: list[NDArray[np.int64]], n_items: int, n_neighbors: int = N_KEPT
) -> ItemNeighbors:
    """The items that followed each item most, soon after.

    Source: sequential rules, Kamehkhosh et al., TempRec 2017, in the form of Ludewig and Jannach,
    arXiv:1803.09587: an item that came ``n`` steps later counts ``1 / n``.

    Args:
        sequences: items by row, oldest first, one array a user.
        n_items: V, rows including padding 0.
        n_neighbors: N.
    Returns:
        The most frequent ones, with their shares of all that followed within ten steps; 0 where fewer
        followed. An item that followed itself is one of them.
    """
    rules = csr_matrix((n_items, n_items), dtype=np.float64)
    if sequences:
        flat = np.concatenate(sequences)
        owners = np.repeat(np.arange(len(sequences)), [len(each) for each in sequences])
        for step in range(1, _STEPS + 1):
            is_same_user = owners[step:] == owners[:-step]
            pairs = flat[:-step][is_same_user], flat[step:][is_same_user]
            rules += csr_matrix((np.full(len(pairs[0]), 1 / step), pairs), shape=(n_items, n_items))
    items = np.zeros((n_items, n_neighbors), dtype=np.int32)
    weights = np.zeros((n_items, n_neighbors), dtype=np.float32)
    for row in range(n_items):
        part = slice(rules.indptr[row], rules.indptr[row + 1])
        counts, followers = rules.data[part], rules.indices[part]
        best = np.lexsort((followers, -counts))[:n_neighbors]
        items[row, : len(best)] = followers[best]
        weights[row, : len(best)] = counts[best] / max(counts.sum(), 1e-12)
    return ItemNeighbors(items, weights)
