"""The vectors that a trained network gives to items it has not met: by their texts.

A text is read by each of the artifact's encoders and brought into the hidden space by the artifact's
own maps. To that comes what IDs add: the mean ID part of the artifact's items with like texts, as the
network reads an item without events (see ``neighbors``).

Sizes: V items of the artifact and padding, N new items, H hidden size.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recbole_llm.encoder import find_encoder
from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.item_parts import ID, ItemParts, TextPart, word_vectors
from recbole_llm.neighbors import text_neighbors
from recbole_llm.scoring import Artifact
from recbole_llm.scoring.artifact import ADAPTER
from recbole_llm.text_cache import encode_cached
from recbole_llm.text_vectors import read_texts
from recbole_llm.weighted_rows import weighted_rows


@dataclass(frozen=True)
class Reading:
    """How texts are read; config keys of LLMSeqRec."""

    text_size: int
    text_whitening: float
    id_neighbors: int
    text_cache: Path
    device: str = "cpu"


@dataclass(frozen=True)
class NewItems:
    """What is known of items by their texts; rows of zeros where there is no text."""

    by_encoder: list[Tensor]
    """(N, H) float32 each, in the order of ``ItemParts.sources``."""
    ids: Tensor
    """(N, H) float32 what IDs add."""
    text_vectors: Tensor
    """(V + N, E) float32 whitened vectors of the artifact's texts and the new ones, read together."""

    @property
    def adapted(self) -> Tensor:
        """(N, H) what the texts alone come to."""
        return torch.stack(self.by_encoder).sum(0)


def check_readable(parts: ItemParts, folder: Path) -> None:
    """Raise where an artifact cannot read the texts of other items.

    Raises:
        ConfigError: it reads no texts, or by an encoder that was trained with it.
    """
    if parts.wholes:
        names = ", ".join(part.name for part in parts.wholes)
        raise ConfigError(
            f"artifact {folder} reads {names} beside texts, which other items are not given yet: train "
            "on these items"
        )
    if not parts.sources:
        raise ConfigError(f"artifact {folder} reads no texts: train with item_repr id+text or text")
    if (folder / ADAPTER).is_dir():
        raise ConfigError(
            f"artifact {folder} has a fine-tuned encoder, by which other texts are not read yet: "
            "train on these items, or take an artifact of a frozen encoder"
        )


def read_new_items(
    artifact: Artifact, parts: ItemParts, texts: list[str], reading: Reading
) -> NewItems:
    """Read N texts of other items, "" for none.

    Args:
        parts: the artifact's, with at least one source.
    Raises:
        ArtifactError: what an encoder says now is not of the width of the artifact's map.
    """
    has_text = torch.tensor([bool(text) for text in texts], dtype=torch.bool)
    described = [text for text in texts if text]
    by_encoder = []
    for source in parts.sources:
        rows = torch.zeros(len(texts), source.matrix.shape[1])
        if described:
            rows[has_text] = _adapted(source, described, reading)
        by_encoder.append(rows)
    together, _ = read_texts(
        ["", *parts.texts, *texts], "+".join(source.encoder for source in parts.sources),
        reading.text_size, reading.text_whitening, reading.text_cache, reading.device,
    )  # fmt: skip
    vectors = torch.from_numpy(together)
    ids = _borrowed_ids(artifact, parts, vectors, reading)
    return NewItems(by_encoder, ids * has_text.unsqueeze(1), vectors)


def _adapted(source: TextPart, texts: list[str], reading: Reading) -> Tensor:
    if source.terms is not None:
        return word_vectors(source, texts)
    spec = find_encoder(source.encoder)
    encoded = encode_cached(texts, spec, reading.text_cache, reading.device)
    if encoded.shape[1] != len(source.matrix):
        raise ArtifactError(
            f"encoder {source.encoder!r} gives vectors of {encoded.shape[1]} numbers, the artifact "
            f"was trained with {len(source.matrix)}: it is another model now; train again"
        )
    return torch.from_numpy(encoded) @ source.matrix + source.offset


def _borrowed_ids(
    artifact: Artifact, parts: ItemParts, text_vectors: Tensor, reading: Reading
) -> Tensor:
    """(N, H) the mean ID part of the artifact's items with like texts."""
    n_old = len(artifact.item_matrix)
    ids = parts.of(torch.arange(n_old), artifact.item_matrix)[ID]  # (V, H)
    if not reading.id_neighbors:
        return ids[1:].mean(0).expand(len(text_vectors) - n_old, -1)
    vectors = text_vectors.to(reading.device)
    is_old = vectors.any(1)
    is_old[n_old:] = False
    neighbors, weights = text_neighbors(vectors, is_old, reading.id_neighbors)
    return weighted_rows(ids, neighbors[n_old:].cpu(), weights[n_old:].cpu())
