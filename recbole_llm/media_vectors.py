"""Items' pictures or sounds as vectors: found, encoded or taken from the cache, whitened."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_llm.encoder import find_encoder, fingerprint, locate_weights
from recbole_llm.errors import DataError
from recbole_llm.media_encoder import MediaEncoder
from recbole_llm.media_files import Medium, find_media
from recbole_llm.modalities import Modality
from recbole_llm.text_cache import Reading, content_key, read_or_encode
from recbole_llm.whitening import whiten

_CHUNK = 64
"""Pictures or sounds encoded between two commits; half a minute of sound is 2 MB."""


def read_media(
    modality: Modality,
    items: list[str],
    values: list[str],
    root: Path,
    size: int,
    strength: float,
    cache: Path,
    device: str,
) -> NDArray[np.float32]:
    """Encode and whiten the pictures or sounds of items.

    Args:
        modality: which, and by what they are read.
        items: N external ids.
        values: what the field says of each; "" for none, whose row is zero, the mean after centring.
        root: the folder below which paths are looked up.
        size: principal components kept.
        strength: of the whitening.
        cache: SQLite file of vectors; found there by the bytes, wherever they lie.
        device: a torch device's name.
    Returns:
        (N, E) float32, of unit variance on average over columns among the items that have one.
    Raises:
        ConfigError: the encoder cannot serve.
        DataError: a value that is refused, a file that cannot be read, or no item has one.
    """
    has_one = np.array([bool(value) for value in values])
    if not has_one.any():
        raise DataError(
            f"no item has a {modality.kind}: the field {modality.field!r} is empty in all "
            f"{len(items)} items. Name another, or leave the modality out"
        )
    given = [(item, value) for item, value in zip(items, values, strict=True) if value]
    encoded = _encode(find_media(given, modality.kind, root), modality, cache, device)
    whitened = whiten(encoded, size, strength)
    vectors = np.zeros((len(items), whitened.shape[1]), dtype=np.float32)
    vectors[has_one] = whitened
    return vectors


def _encode(
    media: list[Medium], modality: Modality, cache: Path, device: str
) -> NDArray[np.float32]:
    spec = find_encoder(modality.encoder)
    path = locate_weights(spec)
    how = f"{modality.kind}, {spec.pooling}, {spec.max_seconds} s"
    encoder_key = fingerprint(path, spec, how)
    reading = Reading(
        kind=modality.kind,
        model=spec.model,
        encoder_key=encoder_key,
        load=lambda: MediaEncoder(path, spec, modality.kind, device),
        order=lambda medium: medium.item,
        told=str,
        chunk=_CHUNK,
    )
    keys = [content_key(encoder_key, medium.read()) for medium in media]
    vectors, _ = read_or_encode(media, keys, reading, cache)
    return vectors
