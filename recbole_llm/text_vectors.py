"""Items' texts as vectors, by one encoder or by several joined: encoded, whitened, side by side."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_llm import tfidf
from recbole_llm.encoder import encoder_names, find_encoder
from recbole_llm.text_cache import encode_cached
from recbole_llm.text_maps import TextMap, language_map, word_map
from recbole_llm.whitening import fit_whitening


def read_texts(
    texts: list[str], encoder: str, size: int, strength: float, cache: Path, device: str
) -> tuple[NDArray[np.float32], list[TextMap]]:
    """Encode and whiten texts by each encoder, and join the vectors.

    Args:
        texts: N texts; "" for none, whose row is zero, the mean after centring.
        encoder: the config key: encoders joined by '+'.
        size: principal components kept of each encoder's vectors.
        strength: of the whitening.
        cache: SQLite file of the language models' vectors.
        device: a torch device's name.
    Returns:
        (N, E) float32, E at most ``size`` times the number of encoders, and the map of each encoder.
    """
    has_text = np.array([bool(text) for text in texts])
    described = [text for text in texts if text]
    parts, maps = [], []
    for name in encoder_names(encoder):
        if name == tfidf.NAME:
            encoded, terms, projection = tfidf.fit_tfidf(described)
            whitening = fit_whitening(encoded, size, strength)
            maps.append(word_map(name, whitening, terms, projection))
        else:
            encoded = encode_cached(described, find_encoder(name), cache, device)
            whitening = fit_whitening(encoded, size, strength)
            maps.append(language_map(name, whitening))
        parts.append(whitening(encoded))
    whitened = np.hstack(parts)
    vectors = np.zeros((len(texts), whitened.shape[1]), dtype=np.float32)
    vectors[has_text] = whitened
    return vectors, maps
