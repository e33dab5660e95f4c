"""Item texts as TF-IDF vectors: the control that shows what a language model adds.

It knows which words two texts share and nothing else; the rest of the model stays as it is.
Source: latent semantic analysis, Deerwester et al. 1990.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_llm.errors import DataError

NAME = "tfidf"
"""What the config key ``encoder`` says for it."""
_SIZE = 384
"""Singular vectors kept: as many as MiniLM has dimensions."""


def tfidf_vectors(texts: list[str]) -> NDArray[np.float32]:
    """Vectors of texts among themselves: a text's vector depends on the whole list.

    Args:
        texts: non-empty texts.
    Returns:
        (N, min(384, words)) float32: words and their logarithmic counts, rare ones weighing more,
        projected on the leading singular vectors.
    Raises:
        DataError: no word of two letters or more stands in the texts.
    """
    try:
        counts = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError as error:
        raise DataError(
            f"encoder tfidf: no word of two letters or more stands in the {len(texts)} texts "
            f"({error}); take --encoder=minilm, or another text by --item_text"
        ) from None
    if counts.shape[1] < 2:
        return counts.toarray().astype(np.float32)  # type: ignore[no-any-return]
    size = min(_SIZE, counts.shape[1] - 1, max(counts.shape[0] - 1, 1))
    projected = TruncatedSVD(size, random_state=0).fit_transform(counts)
    return np.asarray(projected, dtype=np.float32)
