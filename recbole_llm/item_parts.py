"""What an item's vector is made of: two files beside an artifact, which ranking does not read.

    explanation.safetensors   each language model's part of the item matrix, the pictures' and sounds',
                              and the linear maps from what encoders say of a text to the hidden space
    explanation.json          the items' texts, the words of TF-IDF, the artifact that it belongs to,
                              and the SHA-256 of the other file

An artifact's item matrix has IDs, texts and what else describes items added up. Here they stand
apart; an item's ID part is what is left. Vectors are kept in half precision: what its rounding moves
stays in the ID part, so the parts add up to the item's vector as it ranks. The part that TF-IDF makes
is not kept but made again from the words, so that each word's share of it is exact.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_llm.errors import ArtifactError
from recbole_llm.json_files import check_record, is_list_of, read_json
from recbole_llm.modalities import MEDIA, TEXT
from recbole_llm.scoring import Artifact
from recbole_llm.tfidf import Terms

PARTS = ("explanation.json", "explanation.safetensors")
_INDEX, _TENSORS = PARTS
_FORMAT_VERSION, _WITH_MEDIA = 1, 2
"""Files that tell of texts alone are as they always were."""
_REAL = (torch.float16, torch.float32, torch.float64)
_MOST_DIMENSIONS = 2
_KINDS = {
    "format_version": int, "model_version": str, "sha256": str, "has_id": bool, "sources": list,
    "texts": list, "media?": list,
}  # fmt: skip
ID = "id"
"""The name of the part that no text explains."""
MISSING = "missing"
"""The name of what stands in for the modalities that an item lacks."""
_NAMES = (*MEDIA, TEXT, MISSING)


@dataclass(frozen=True)
class TextPart:
    """One encoder's part of the item vectors."""

    encoder: str
    """Its name in the config key ``encoder``."""
    matrix: Tensor
    """(E, H) float32, from what the encoder says of a text to the hidden space."""
    offset: Tensor
    """(H,) float32, added: the average text's, with the sign turned."""
    mean: Tensor
    """(H,) float32, the mean over all items."""
    vectors: Tensor | None
    """(V, H) float16, zero without a text; None for TF-IDF, which is made again from the words."""
    terms: Terms | None = None
    """The E words of TF-IDF; None for a language model."""


@dataclass(frozen=True)
class WholePart:
    """A part of the item vectors that no words make: of pictures, of sounds, of what items lack, or of
    texts behind a gate."""

    name: str
    """``picture``, ``sound``, ``missing`` or ``text``."""
    mean: Tensor
    """(H,) float32, the mean over all items."""
    vectors: Tensor
    """(V, H) float16, zero for padding."""


@dataclass(frozen=True)
class ItemParts:
    """The texts of an artifact's items, and what the encoders made of them."""

    texts: list[str]
    """One an item, as it was read, in the order of ``Artifact.item_ids``; "" for none."""
    has_id: bool
    """Whether items have vectors of their own beside their texts."""
    sources: list[TextPart]
    """In the order of the config key ``encoder``; none in a model without text, or with a gate."""
    wholes: list[WholePart] = field(default_factory=list)
    """What else describes the items."""

    def text(self, row: int) -> str:
        """The text of a row of the item matrix; "" for padding."""
        return self.texts[row - 1] if row else ""

    def of(self, rows: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Take items' vectors apart.

        Args:
            rows: (N,) int64 rows of the item matrix.
            items: (V, H) float32, the matrix.
        Returns:
            By encoder or other name, and ``id``, (N, H) float32. They add up to ``items[rows]``.
        """
        parts = {source.encoder: self._text_part(source, rows) for source in self.sources}
        parts |= {whole.name: whole.vectors[rows].float() for whole in self.wholes}
        return self._with_rest(parts, items[rows])

    def means(self, items: Tensor) -> dict[str, Tensor]:
        """The same of an average item: (1, H) each, which add up to the mean of the item vectors."""
        parts = {source.encoder: source.mean.unsqueeze(0) for source in self.sources}
        parts |= {whole.name: whole.mean.unsqueeze(0) for whole in self.wholes}
        return self._with_rest(parts, items[1:].mean(0, keepdim=True))

    def _text_part(self, source: TextPart, rows: Tensor) -> Tensor:
        if source.vectors is not None:
            return source.vectors[rows].float()
        assert source.terms is not None, "what is not kept is made of words"
        texts = [self.text(row) for row in rows.tolist()]
        vectors = word_vectors(source, texts)
        return vectors * torch.tensor([[float(bool(text))] for text in texts])

    def _with_rest(self, parts: dict[str, Tensor], whole: Tensor) -> dict[str, Tensor]:
        rest = whole - sum(parts.values(), torch.zeros_like(whole))
        if self.has_id or not parts:
            return {ID: rest, **parts}
        first = next(iter(parts))  # the rounding of half precision
        return {ID: torch.zeros_like(whole), **parts, first: parts[first] + rest}


def word_vectors(source: TextPart, texts: list[str]) -> Tensor:
    """(N, H) float32, what TF-IDF makes of texts."""
    assert source.terms is not None
    weights = source.terms.weigh(texts) @ source.matrix.numpy()  # (N, H)
    return torch.from_numpy(np.asarray(weights, dtype=np.float32)) + source.offset


def write_parts(parts: ItemParts, model_version: str, folder: Path) -> None:
    """Write the two files beside an artifact; the index, which names the other by its hash, last."""
    tensors = {}
    for number, source in enumerate(parts.sources):
        tensors[f"{number}.matrix"], tensors[f"{number}.offset"] = source.matrix, source.offset
        tensors[f"{number}.mean"] = source.mean
        if source.terms is not None:
            tensors[f"{number}.matrix"] = source.matrix.half()
            tensors[f"{number}.idf"] = torch.from_numpy(source.terms.idf)
        if source.vectors is not None:
            tensors[f"{number}.vectors"] = source.vectors
    for whole in parts.wholes:
        tensors[f"{whole.name}.mean"], tensors[f"{whole.name}.vectors"] = whole.mean, whole.vectors
    staging = folder / f".{_TENSORS}"
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, staging)
    staging.rename(folder / _TENSORS)
    index = {
        "format_version": _WITH_MEDIA if parts.wholes else _FORMAT_VERSION,
        "model_version": model_version,
        "sha256": _sha256(folder / _TENSORS),
        "has_id": parts.has_id,
        "sources": [
            {"encoder": source.encoder, "words": source.terms and source.terms.words}
            for source in parts.sources
        ],
        "texts": parts.texts,
        **({"media": [whole.name for whole in parts.wholes]} if parts.wholes else {}),
    }
    staging = folder / f".{_INDEX}"
    staging.write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
    staging.rename(folder / _INDEX)


def read_parts(folder: Path, artifact: Artifact) -> ItemParts:
    """Read what was written beside an artifact.

    Raises:
        ArtifactError: it is absent, damaged, of another format, or of another artifact.
    """
    if not (folder / _INDEX).is_file():
        raise ArtifactError(f"artifact {folder} has no {_INDEX}: {_why_absent(artifact)}")
    try:
        index = check_record(read_json(folder / _INDEX), _KINDS, folder / _INDEX)
        found = index["format_version"]
        if found not in (_FORMAT_VERSION, _WITH_MEDIA):
            raise ArtifactError(
                f"{folder / _INDEX} has format {found!r}, this version reads {_FORMAT_VERSION} and "
                f"{_WITH_MEDIA}; "
                "install the version of recbole_llm that wrote it, or train again"
            )
        _check(folder, index, artifact)
        tensors = load_file(folder / _TENSORS)
        _check_tensors(tensors)
        parts = ItemParts(
            index["texts"], index["has_id"], [*_sources(index, tensors)], _wholes(index, tensors)
        )
        _check_sources(parts, artifact)
        return parts
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder / _INDEX} cannot be read: {error!r}; restore the folder or train again"
        ) from None


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    """Raise ValueError where tensors are not what parts are made of."""
    if odd := [name for name, value in tensors.items() if value.dtype not in _REAL]:
        raise ValueError(f"{_TENSORS} has {odd[:3]} of other than real numbers")
    if deep := [name for name, value in tensors.items() if value.ndim > _MOST_DIMENSIONS]:
        raise ValueError(f"{_TENSORS} has {deep[:3]} of more than {_MOST_DIMENSIONS} dimensions")
    if endless := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise ValueError(f"{_TENSORS} has {endless[:3]} with no numbers or infinite ones")


def _wholes(index: dict[str, Any], tensors: dict[str, Tensor]) -> list[WholePart]:
    names = index.get("media", [])
    if not all(name in _NAMES for name in names) or len(set(names)) < len(names):
        raise ValueError(f"media must be some of {_NAMES}, each once")
    return [WholePart(name, tensors[f"{name}.mean"], tensors[f"{name}.vectors"]) for name in names]


def _sources(index: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[TextPart]:
    for number, source in enumerate(index["sources"]):
        words = source["words"]
        if not isinstance(source["encoder"], str) or not is_list_of(str, words or []):
            raise ValueError(f"source {number} has no name, or words that are no texts")
        yield TextPart(
            source["encoder"],
            tensors[f"{number}.matrix"].float(),
            tensors[f"{number}.offset"],
            tensors[f"{number}.mean"],
            tensors.get(f"{number}.vectors"),
            None if words is None else Terms(words, tensors[f"{number}.idf"].numpy()),
        )


def _check_sources(parts: ItemParts, artifact: Artifact) -> None:
    """Raise ValueError where a text's part is not of the shape of the artifact's items."""
    n_rows, size = artifact.item_matrix.shape
    for source in parts.sources:
        terms, vectors = source.terms, source.vectors
        width = len(source.matrix)
        shapes = (source.matrix.shape[1:], source.offset.shape, source.mean.shape)
        has_size = all(shape == (size,) for shape in shapes)
        of_words = terms is not None and terms.idf.shape == (width,) == (len(set(terms.words)),)
        of_rows = vectors is not None and vectors.shape == (n_rows, size)
        kinds = {each.dtype for each in (source.offset, source.mean)}
        if not has_size or kinds != {torch.float32} or not (of_words or of_rows):
            raise ValueError(
                f"the part of {source.encoder!r} does not fit the {n_rows} x {size} items"
            )
    for whole in parts.wholes:
        of_rows = whole.vectors.shape == (n_rows, size)
        if not of_rows or whole.mean.shape != (size,) or whole.mean.dtype != torch.float32:
            raise ValueError(f"the part {whole.name!r} does not fit the {n_rows} x {size} items")


def _why_absent(artifact: Artifact) -> str:
    if artifact.metadata.get("options", {}).get("adaptor") == "moe":
        return (
            "the mixture of its adaptor (moe) does not add up by text; train with --adaptor=linear"
        )
    return "it is of an older version of recbole_llm; train again"


def _check(folder: Path, index: dict[str, Any], artifact: Artifact) -> None:
    versions = (artifact.model_version, artifact.metadata.get("compressed_from"))
    if index["model_version"] not in versions:
        raise ArtifactError(
            f"{folder / _INDEX} is of artifact {index['model_version']!r}, not of "
            f"{artifact.model_version}; restore the folder or train again"
        )
    if (found := _sha256(folder / _TENSORS)) != index["sha256"]:
        raise ArtifactError(
            f"{folder / _TENSORS} is damaged: its SHA-256 is {found[:12]}…, {_INDEX} says "
            f"{index['sha256'][:12]}…; restore the folder or train again"
        )
    if not is_list_of(str, index["texts"]):
        raise ArtifactError(f"texts in {folder / _INDEX} must be texts alone; restore the folder")
    if len(index["texts"]) != len(artifact.item_ids):
        raise ArtifactError(
            f"{folder / _INDEX} has {len(index['texts'])} texts for {len(artifact.item_ids)} items; "
            "restore the folder or train again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
