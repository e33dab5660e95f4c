"""PCA whitening of text vectors, by a chosen strength.

Raw language-model states lie in a narrow cone: any two items look alike. Centring opens it; whitening
then gives the small components, which hold detail and noise, the weight of the large ones, which hold
the topic. Full whitening is BERT-whitening (arXiv:2103.15316); a strength between leaves the topics
in front.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA


@dataclass(frozen=True)
class Whitening:
    """The map from an encoder's vectors to whitened ones: ``(vectors - mean) @ matrix``."""

    mean: NDArray[np.float32]
    """(E,)"""
    matrix: NDArray[np.float32]
    """(E, size)"""

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, E) float32 to (N, size) float32."""
        centred = vectors.astype(np.float64) - self.mean
        return np.asarray(centred @ self.matrix, dtype=np.float32)


def fit_whitening(vectors: NDArray[np.float32], size: int, strength: float = 1.0) -> Whitening:
    """Centre, rotate to the leading principal components and even out their variances.

    Args:
        vectors: (N, E) float32.
        size: components wanted; fewer come back when N - 1 or E is smaller.
        strength: each component is divided by its standard deviation to this power: 1 gives all of
            them unit variance, 0 leaves the variances in proportion.
    Returns:
        The map whose (N, min(size, E, N - 1)) image has zero mean a column and unit variance on
        average over columns. Components that hold no variance are dropped, so that rounding noise is
        not blown up; where none holds any, one column of zeros is left.
    """
    if len(vectors) < 2 or (vectors == vectors[0]).all():
        mean = vectors.mean(0) if len(vectors) else np.zeros(vectors.shape[1])
        return Whitening(mean.astype(np.float32), np.zeros((vectors.shape[1], 1), np.float32))
    size = min(size, vectors.shape[1], len(vectors) - 1)
    pca = PCA(n_components=size, svd_solver="full").fit(vectors.astype(np.float64))
    variances = pca.explained_variance_
    has_variance = variances > 1e-9 * max(variances[0], 1e-30)
    kept = variances[has_variance]
    scale = kept ** (strength / 2) * np.sqrt(np.mean(kept ** (1 - strength)))
    matrix = pca.components_[has_variance].T / scale
    return Whitening(pca.mean_.astype(np.float32), matrix.astype(np.float32))


def whiten(vectors: NDArray[np.float32], size: int, strength: float = 1.0) -> NDArray[np.float32]:
    """Fit the map to (N, E) vectors and apply it to them; see ``fit_whitening``."""
    return fit_whitening(vectors, size, strength)(vectors)
