"""Items named by short codes that their texts give them: items of like texts share the first ones.

Source: TIGER, Rajput et al., arXiv:2305.05065; the codes by residual k-means.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans


def semantic_ids(
    vectors: NDArray[np.float32], n_levels: int, n_codes: int, seed: int
) -> NDArray[np.int64]:
    """Name items by residual k-means of their vectors.

    Each level clusters what the levels before left of the vectors; one more code tells items apart
    that agree in all of them.

    Args:
        vectors: (N, E) float32, one row an item, padding left out.
        n_levels: levels of clusters.
        n_codes: clusters a level, fewer where there are fewer distinct rows.
    Returns:
        (N, n_levels + 1) int64, all rows different.
    """
    left = vectors.astype(np.float64)
    levels = []
    for level in range(n_levels):
        n_clusters = min(n_codes, len(np.unique(left.round(9), axis=0)))
        means = KMeans(n_clusters, n_init=1, max_iter=50, random_state=seed + level).fit(left)
        levels.append(means.labels_.astype(np.int64))
        left = left - means.cluster_centers_[means.labels_]
    names = np.stack(levels, 1)
    order = np.lexsort(names.T[::-1])
    is_first = np.r_[True, (names[order][1:] != names[order][:-1]).any(1)]
    places = np.arange(len(names))
    twin = np.empty(len(names), np.int64)
    twin[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return np.column_stack([names, twin])
