"""The artifact: a folder that training writes once and everything else reads.

    model.safetensors   network weights and the ready item matrix
    items.json          external item ids in row order, their titles and counts
    artifact.json       format version, network shape, how the matrix is stored, data cut, metrics,
                        library versions, and the SHA-256 of the other two files

There is no pickle in it. A folder is named by its content, so the same weights have one name. Beside
them may lie ``training.safetensors``, what a later training can start from, and ``explanation.json``
with its tensors, what explanations need (``recbole_llm.item_parts``); ranking does not read them.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_llm.errors import ArtifactError
from recbole_llm.json_files import check_record, is_list_of, read_json
from recbole_llm.layers import READERS, SequenceConfig
from recbole_llm.scoring.matrix import pack_matrix, unpack_matrix

TRAINING_STATE = "training.safetensors"
ADAPTER = "adapter"
"""Folder of what fine-tuning added to the language model, where it did."""
_PLAIN, _COMPRESSED = 3, 4
"""Format versions: an item matrix in float32, which is as old, and one that is stored otherwise."""
_ITEM_BIAS = "item_bias"
_ENCODER, _REPEATS = "sequence_encoder.", "repeat_bias."
_WEIGHTS, _ITEMS, _INDEX = "model.safetensors", "items.json", "artifact.json"
_ITEM_KINDS = {"item_id": list, "title": list, "n_events?": list}
_INDEX_KINDS = {"files": dict, "sequence": dict, "options?": dict}
_SHAPE_KINDS: dict[str, Any] = {
    field.name + ("" if field.default is MISSING else "?"): int | float
    if field.type is float
    else field.type
    for field in fields(SequenceConfig)
}


@dataclass(frozen=True)
class Artifact:
    """A trained model, checked and in memory."""

    sequence_config: SequenceConfig
    encoder_weights: dict[str, Tensor]
    """State of what ``layers.build_reader`` makes."""
    repeat_weights: dict[str, Tensor]
    """State of ``layers.RepeatBias``; empty without one."""
    item_matrix: Tensor
    """(V, H) float32 item vectors; row 0 is padding and zero."""
    item_bias: Tensor
    """(V,) float32, added to the items' scores."""
    item_ids: list[str]
    """External ids of rows 1..V-1, in order."""
    titles: list[str]
    """One title an item, in the same order; "" where none is known."""
    metadata: dict[str, Any]
    """What training tells of itself: data_cut, metrics, versions, options."""
    model_version: str = ""
    """Twelve hex digits of the content's hash; set by writing and loading."""
    stored: str = "float32"
    """How the file holds ``item_matrix``, one of ``matrix.STORED``."""
    n_events: list[int] = field(default_factory=list)
    """Training events of each item, in the same order; empty where an artifact does not tell."""


def write_artifact(artifact: Artifact, root: Path) -> Path:
    """Write an artifact to ``root/<model_version>``, whole or not at all.

    Returns:
        The folder. If the same content stands there already, it is left as it is.
    """
    root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=root))
    try:
        tensors = {_ENCODER + name: value for name, value in artifact.encoder_weights.items()}
        tensors |= {_REPEATS + name: value for name, value in artifact.repeat_weights.items()}
        tensors |= pack_matrix(artifact.item_matrix, artifact.stored)
        tensors[_ITEM_BIAS] = artifact.item_bias
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            staging / _WEIGHTS,
        )
        items = {
            "item_id": artifact.item_ids,
            "title": artifact.titles,
            "n_events": artifact.n_events,
        }
        (staging / _ITEMS).write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
        hashes = {name: _sha256(staging / name) for name in (_WEIGHTS, _ITEMS)}
        model_version = _version(hashes)
        index = {
            "format_version": _PLAIN if artifact.stored == "float32" else _COMPRESSED,
            "model_version": model_version,
            "files": hashes,
            "sequence": asdict(artifact.sequence_config),
            "n_items": len(artifact.item_ids),
            **({} if artifact.stored == "float32" else {"item_matrix": artifact.stored}),
            **artifact.metadata,
        }
        (staging / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
        target = root / model_version
        if target.exists():
            return target
        os.chmod(staging, 0o755)
        os.rename(staging, target)
        return target
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load_artifact(path: Path) -> Artifact:
    """Read an artifact and check that its parts agree.

    Raises:
        ArtifactError: a file is absent, changed, cut short, of a newer format, or of another shape
            than ``artifact.json`` says.
    """
    index = check_record(_read_json(path / _INDEX), {}, path / _INDEX)
    version = index.get("format_version")
    if version not in (_PLAIN, _COMPRESSED):
        raise ArtifactError(
            f"{path} has artifact format {version!r}, this version reads {_PLAIN} and {_COMPRESSED}; "
            "install the version of recbole_llm that wrote it, or train again"
        )
    check_record(index, _INDEX_KINDS, path / _INDEX)
    hashes = check_record(index["files"], {_WEIGHTS: str, _ITEMS: str}, f"files in {path / _INDEX}")
    hashes = {name: hashes[name] for name in (_WEIGHTS, _ITEMS)}
    check_record(index["sequence"], _SHAPE_KINDS, f"sequence in {path / _INDEX}")
    try:
        stored = index["item_matrix"] if version == _COMPRESSED else "float32"
        config = SequenceConfig(**index["sequence"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path / _INDEX} lacks or mistakes a field: {error}") from None
    for name, expected in hashes.items():
        if not (path / name).is_file():
            raise ArtifactError(f"artifact {path} is incomplete: {name} is missing; train again")
        if (found := _sha256(path / name)) != expected:
            raise ArtifactError(
                f"artifact {path} is damaged: {name} has SHA-256 {found[:12]}…, artifact.json says "
                f"{expected[:12]}…; restore the folder or train again"
            )
    items = check_record(_read_json(path / _ITEMS), _ITEM_KINDS, path / _ITEMS)
    n_events = items.get("n_events", [])
    if not is_list_of(str, [*items["item_id"], *items["title"]]) or not is_list_of(int, n_events):
        raise ArtifactError(
            f"{path / _ITEMS} must hold texts, and as n_events integers; restore the folder"
        )
    try:
        tensors = load_file(path / _WEIGHTS)
        item_matrix = unpack_matrix(tensors, stored, config.hidden_size)
        item_bias = tensors.pop(_ITEM_BIAS)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path / _WEIGHTS} cannot be read: {error}") from None
    n_items = len(items["item_id"])
    shapes = (tuple(item_matrix.shape), tuple(item_bias.shape), len(items["title"]))
    expected_shapes = ((n_items + 1, config.hidden_size), (n_items + 1,), n_items)
    if shapes != expected_shapes:
        raise ArtifactError(
            f"artifact {path}: item matrix, biases and titles are {shapes}, its items and hidden "
            f"size ask for {expected_shapes}"
        )
    if n_events and (len(n_events) != n_items or min(n_events) < 0 or max(n_events) >= 2**63):
        raise ArtifactError(
            f"{path / _ITEMS} has {len(n_events)} n_events from {min(n_events)} to {max(n_events)}, "
            f"expected {n_items} from 0 to 2**63 - 1; restore the folder"
        )
    _check_shape(config, tensors, path)
    known = {"format_version", "model_version", "files", "sequence", "n_items", "item_matrix"}
    return Artifact(
        sequence_config=config,
        encoder_weights=_part(tensors, _ENCODER),
        repeat_weights=_part(tensors, _REPEATS),
        item_matrix=item_matrix,
        item_bias=item_bias,
        item_ids=items["item_id"],
        titles=items["title"],
        metadata={key: value for key, value in index.items() if key not in known},
        model_version=_version(hashes),
        stored=stored,
        n_events=n_events,
    )


def _check_shape(config: SequenceConfig, tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse a network that cannot be built, or is larger than the weights that lie there: it would
    take up memory before anyone sees that they do not fit."""
    most = max((weight.numel() for weight in tensors.values()), default=0)
    sizes = (config.hidden_size, config.n_heads, config.inner_size, config.max_seq_length)
    is_known = (
        config.score in ("dot", "cosine")
        and config.hidden_act in ("gelu", "relu")
        and config.reader in READERS
    )
    shares = (config.hidden_dropout_prob, config.attn_dropout_prob)
    if (
        not all(1 <= size <= most for size in sizes)
        or config.hidden_size % config.n_heads
        or not 1 <= config.n_layers <= len(tensors)
        or not 0 <= config.repeat_lags <= most
        or not all(0 <= share < 1 for share in shares)
        or not (0 < config.layer_norm_eps < 1 and 0 < config.temperature < math.inf)
        or not (0 < config.initializer_range < math.inf and is_known)
    ):
        raise ArtifactError(
            f"{path / _INDEX} describes no network of the weights beside it: {config}; restore the "
            "folder or train again"
        )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise ArtifactError(
            f"no artifact at {path.parent}: {path.name} is missing; train a model first"
        ) from None


def _version(hashes: dict[str, str]) -> str:
    return hashlib.sha256("".join(sorted(hashes.values())).encode()).hexdigest()[:12]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
