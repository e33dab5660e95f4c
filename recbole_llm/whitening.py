"""PCA whitening of text vectors, by a chosen strength.

Raw language-model states lie in a narrow cone: any two items look alike. Centring opens it; whitening
then gives the small components, which hold detail and noise, the weight of the large ones, which hold
the topic. Full whitening is BERT-whitening (arXiv:2103.15316); a strength between leaves the topics
in front.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA


def whiten(vectors: NDArray[np.float32], size: int, strength: float = 1.0) -> NDArray[np.float32]:
    """Centre, rotate to the leading principal components and even out their variances.

    Args:
        vectors: (N, E) float32.
        size: components wanted; fewer come back when N - 1 or E is smaller.
        strength: each component is divided by its standard deviation to this power: 1 gives all of
            them unit variance, 0 leaves the variances in proportion.
    Returns:
        (N, min(size, E, N - 1)) float32, zero mean a column, unit variance on average over columns.
        Components that hold no variance are dropped, so that rounding noise is not blown up.
    """
    if len(vectors) < 2 or (vectors == vectors[0]).all():
        return np.zeros((len(vectors), 1), dtype=np.float32)
    size = min(size, vectors.shape[1], len(vectors) - 1)
    pca = PCA(n_components=size, svd_solver="full")
    components = pca.fit_transform(vectors.astype(np.float64))
    variances = pca.explained_variance_
    has_variance = variances > 1e-9 * max(variances[0], 1e-30)
    kept = variances[has_variance]
    evened = components[:, has_variance] / kept ** (strength / 2)
    return np.asarray(evened / np.sqrt(np.mean(kept ** (1 - strength))), dtype=np.float32)
