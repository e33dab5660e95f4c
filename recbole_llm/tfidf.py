"""Item texts as TF-IDF vectors: the control that shows what a language model adds.

It knows which words two texts share and nothing else; the rest of the model stays as it is.
Source: latent semantic analysis, Deerwester et al. 1990.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_llm.errors import DataError

NAME = "tfidf"
"""What the config key ``encoder`` says for it."""
_SIZE = 384
"""Singular vectors kept: as many as MiniLM has dimensions."""


@dataclass(frozen=True)
class Terms:
    """The words of a list of texts, and what each weighs."""

    words: list[str]
    """W words of two letters or more, in lower case."""
    idf: NDArray[np.float64]
    """(W,), the larger the rarer."""

    def weigh(self, texts: list[str]) -> csr_matrix:
        """(N, W) float64 weights of the words in each text; a row has length 1, or no word."""
        vectorizer = _vectorizer(vocabulary=self.words)
        vectorizer.idf_ = self.idf
        return vectorizer.transform(texts)


def fit_tfidf(texts: list[str]) -> tuple[NDArray[np.float32], Terms, NDArray[np.float32]]:
    """Vectors of texts among themselves: a text's vector depends on the whole list.

    Args:
        texts: non-empty texts.
    Returns:
        (N, E) float32, E = min(384, words): words and their logarithmic counts, rare ones weighing
        more, projected on the leading singular vectors; the words; and (W, E) float32, the projection.
    Raises:
        DataError: no word of two letters or more stands in the texts.
    """
    vectorizer = _vectorizer()
    try:
        counts = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise DataError(
            f"encoder tfidf: no word of two letters or more stands in the {len(texts)} texts "
            f"({error}); take --encoder=minilm, or another text by --item_text"
        ) from None
    terms = Terms(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_)
    if counts.shape[1] < 2:
        return counts.toarray().astype(np.float32), terms, np.ones((1, 1), np.float32)
    size = min(_SIZE, counts.shape[1] - 1, max(counts.shape[0] - 1, 1))
    svd = TruncatedSVD(size, random_state=0)
    projected = np.asarray(svd.fit_transform(counts), dtype=np.float32)
    return projected, terms, np.ascontiguousarray(svd.components_.T, dtype=np.float32)


def _vectorizer(vocabulary: list[str] | None = None) -> TfidfVectorizer:
    return TfidfVectorizer(sublinear_tf=True, vocabulary=vocabulary)
