"""PCA whitening of text vectors.

Raw language-model states lie in a narrow cone: any two items look alike. Centred and whitened,
each kept direction has unit variance. Source: BERT-whitening, arXiv:2103.15316.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA


def whiten(vectors: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Centre and whiten, keeping the leading principal components.

    Args:
        vectors: (N, E) float32.
        size: components wanted; fewer come back when N - 1 or E is smaller.
    Returns:
        (N, min(size, E, N - 1)) float32, zero mean and unit variance a column. Components that
        hold no variance are dropped, so that rounding noise is not blown up to unit size.
    """
    if len(vectors) < 2:
        return np.zeros((len(vectors), 1), dtype=np.float32)
    size = min(size, vectors.shape[1], len(vectors) - 1)
    pca = PCA(n_components=size, whiten=True, svd_solver="full")
    whitened = pca.fit_transform(vectors.astype(np.float64))
    has_variance = pca.explained_variance_ > 1e-9 * max(pca.explained_variance_[0], 1e-30)
    if not has_variance.any():
        return np.zeros((len(vectors), 1), dtype=np.float32)
    return np.asarray(whitened[:, has_variance], dtype=np.float32)
