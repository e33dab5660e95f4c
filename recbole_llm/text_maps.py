"""How the items' texts became vectors, kept so that other texts can be read the same way."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_llm.tfidf import Terms
from recbole_llm.whitening import Whitening


@dataclass(frozen=True)
class TextMap:
    """The linear map from what one encoder says of a text to its columns of the text vectors."""

    encoder: str
    """Its name in the config key ``encoder``."""
    matrix: NDArray[np.float32]
    """(E, size): of a language model's vector, or of the weights of words."""
    offset: NDArray[np.float32]
    """(size,), added: the average text's, with the sign turned."""
    terms: Terms | None = None
    """The E words; None for a language model."""


def language_map(encoder: str, whitening: Whitening) -> TextMap:
    """The map of a language model's vectors."""
    return TextMap(encoder, whitening.matrix, _offset(whitening))


def word_map(
    encoder: str, whitening: Whitening, terms: Terms, projection: NDArray[np.float32]
) -> TextMap:
    """The map of the weights of words.

    Args:
        projection: (W, E) float32, from the weights to what was whitened.
    """
    matrix = projection.astype(np.float64) @ whitening.matrix
    return TextMap(encoder, matrix.astype(np.float32), _offset(whitening), terms)


def _offset(whitening: Whitening) -> NDArray[np.float32]:
    return (-whitening.mean.astype(np.float64) @ whitening.matrix).astype(np.float32)
