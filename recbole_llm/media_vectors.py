"""Items' pictures or sounds as vectors: found, encoded or taken from the cache, whitened."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_llm.encoder import find_encoder, fingerprint, locate_weights
from recbole_llm.errors import DataError
from recbole_llm.media_content import check_content
from recbole_llm.media_encoder import MediaEncoder
from recbole_llm.media_files import Medium, find_medium
from recbole_llm.modalities import Modality
from recbole_llm.text_cache import Reading, content_key, read_or_encode
from recbole_llm.whitening import whiten

_log = logging.getLogger(__name__)
_MOST_LOST = 0.1
"""Of the pictures or sounds: a file may be broken, but not a folder be the wrong one."""
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
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Encode and whiten the pictures or sounds of items.

    What is refused or cannot be read counts as missing, as long as it is a tenth at most; how many
    there are is a warning, which names the first.

    Args:
        modality: which, and by what they are read.
        items: N external ids.
        values: what the field says of each; "" for none.
        root: the folder below which paths are looked up.
        size: principal components kept.
        strength: of the whitening.
        cache: SQLite file of vectors; found there by the bytes, wherever they lie.
        device: a torch device's name.
    Returns:
        (N, E) float32, of unit variance on average over columns among the items that have one; zero,
        the mean after centring, for the others. And (N,) which items have one.
    Raises:
        ConfigError: the encoder cannot serve.
        DataError: no item has one, or more than a tenth are refused or cannot be read.
    """
    rows = [row for row, value in enumerate(values) if value]
    if not rows:
        raise DataError(
            f"no item has a {modality.kind}: the field {modality.field!r} is empty in all "
            f"{len(items)} items. Name another, or leave the modality out"
        )
    spec = find_encoder(modality.encoder)
    path = locate_weights(spec)
    how = f"{modality.kind}, {spec.pooling}, {spec.max_seconds} s"
    faults: list[str] = []

    def is_readable(medium: Medium) -> bool:
        try:
            check_content(medium, spec.max_seconds)
        except DataError as error:
            faults.append(str(error))
            return False
        return True

    reading = Reading(
        kind=modality.kind,
        model=spec.model,
        encoder_key=fingerprint(path, spec, how),
        load=lambda: MediaEncoder(path, spec, modality.kind, device),
        order=lambda medium: medium.item,
        told=str,
        chunk=_CHUNK,
        is_readable=is_readable,
    )
    media: list[Medium] = []
    keys: dict[int, bytes] = {}
    root = root.resolve()
    for row in rows:
        try:
            medium = find_medium(items[row], values[row], modality.kind, root)
            keys[row] = content_key(reading.encoder_key, medium.read())
            media.append(medium)
        except DataError as error:
            faults.append(str(error))
    _check_lost(len(rows) - len(keys), len(rows), modality.kind, faults)  # before all is encoded
    known, _ = read_or_encode(media, [*keys.values()], reading, cache)
    vectors_by_row = {row: known[key] for row, key in keys.items() if key in known}
    n_lost = len(rows) - len(vectors_by_row)
    _check_lost(n_lost, len(rows), modality.kind, faults)
    if n_lost:
        _log.warning(
            "%d of %d %ss cannot be read and count as missing; first: %s",
            n_lost, len(rows), modality.kind, faults[0],
        )  # fmt: skip
    whitened = whiten(np.stack([*vectors_by_row.values()]), size, strength)
    has_one = np.zeros(len(items), dtype=np.bool_)
    has_one[[*vectors_by_row]] = True
    vectors = np.zeros((len(items), whitened.shape[1]), dtype=np.float32)
    vectors[has_one] = whitened
    return vectors, has_one


def _check_lost(n_lost: int, n: int, kind: str, faults: list[str]) -> None:
    if n_lost > _MOST_LOST * n:
        raise DataError(
            f"{n_lost} of {n} {kind}s cannot be read, which are more than a tenth; first: {faults[0]}"
        )
