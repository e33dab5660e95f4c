"""Which items followed which, soon after: item-to-item rules from the events alone.

Source: sequential rules, Kamehkhosh et al., TempRec 2017, in the form of Ludewig and Jannach,
arXiv:1803.09587: an item that came ``n`` steps later counts ``1 / n``.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

_STEPS = 10
"""How far after an item another one counts."""


def sequential_rules(
    sequences: list[NDArray[np.int64]], n_items: int, n_neighbors: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The items that followed each item most.

    Args:
        sequences: items by row, oldest first, one array a user.
        n_items: V, rows including padding 0.
        n_neighbors: N.
    Returns:
        (V, N) rows, the most frequent first, and (V, N) their shares of all that followed within ten
        steps; 0 where fewer followed. An item that followed itself is one of them.
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
    return items, weights
