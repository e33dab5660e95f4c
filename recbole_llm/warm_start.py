"""Start a network from the one that an earlier artifact was made of.

An artifact holds finished item vectors, which cannot be trained on. Beside it lies the network's own
state, ``training.safetensors``. Items are told by their external ids: those that both catalogues
hold keep their ID vectors, new ones start as in any training. Users have no vectors; new ones need
nothing.

The text vectors of two catalogues differ, even of the same items: principal components turn when
items join. So the text part is carried by what it made of the old items: the linear map from the new
text vectors that comes nearest to their old adapted vectors.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recbole_llm.adaptors import LinearAdaptor
from recbole_llm.errors import ConfigError
from recbole_llm.inherited import kept_shape
from recbole_llm.json_files import is_list_of, parse_json
from recbole_llm.model import LLMSeqRec
from recbole_llm.scoring.artifact import TRAINING_STATE

_log = logging.getLogger(__name__)
_NETWORK, _ADAPTED = "network.", "adapted_text"
_ID_VECTORS, _ADAPTOR = "items.id_embedding.weight", "items.adaptor."
_RIDGE = 1e-6
"""Of the least squares, as a share of the text vectors' mean square: it decides only where the items
leave a direction of text space open."""


@torch.no_grad()
def write_training_state(model: LLMSeqRec, tokens: list[str], folder: Path) -> None:
    """Write what a later training can start from beside an artifact.

    Args:
        tokens: V external item ids by RecBole id, entry 0 for padding.
        folder: the artifact's.
    """
    network = model.scoring_network
    tensors = {_NETWORK + name: value for name, value in network.state_dict().items()}
    if network.items.adaptor is not None:
        tensors[_ADAPTED] = network.items.adaptor(model.catalogue.text_vectors)  # (V, H)
    about = {"items": json.dumps(tokens[1:]), "shape": json.dumps(_shape(model), sort_keys=True)}
    staging = folder / f".{TRAINING_STATE}"
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        staging, metadata=about,
    )  # fmt: skip
    staging.rename(folder / TRAINING_STATE)


@torch.no_grad()
def start_warm(model: LLMSeqRec, tokens: list[str], folder: Path) -> dict[str, Any]:
    """Put an earlier network's state into a new model, in place, where the two fit.

    Args:
        model: as it was built; it stays so where it starts cold.
        tokens: V external item ids by RecBole id, entry 0 for padding.
        folder: the artifact to start from.
    Returns:
        ``warm_from`` (the artifact's name, or None for a cold start), ``n_known_items`` and
        ``n_new_items``, and ``cold_because`` (why it starts cold).
    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"warm_start names no artifact: {folder} does not exist")
    try:
        with safe_open(folder / TRAINING_STATE, framework="pt") as file:
            about = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        before, items = _told_of(about, state)
    except FileNotFoundError:
        return _cold(tokens, f"{folder.name} has no {TRAINING_STATE}")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        return _cold(tokens, f"{folder / TRAINING_STATE} cannot be read: {error}")
    now = json.loads(json.dumps(_shape(model)))
    differing = [f"{key} was {before.get(key)}" for key in now if now[key] != before.get(key)]
    if not differing and not isinstance(model.network.items.adaptor, LinearAdaptor | None):
        differing = ["only the linear adaptor can be carried to other text vectors"]
    if not differing and not _fits(model, state):
        differing = [f"the tensors of {folder / TRAINING_STATE} are of another network"]
    if differing:
        return _cold(tokens, ", ".join(differing))

    row = {item: number for number, item in enumerate(items, start=1)}
    new_rows = [new for new, token in enumerate(tokens) if new and token in row]
    if not new_rows:
        return _cold(tokens, f"{folder.name} knows none of the items")
    old_rows = [row[tokens[new]] for new in new_rows]
    for network in [model.network, *([] if model.average is None else [model.average.module])]:
        for name, value in network.state_dict().items():
            if name == _ID_VECTORS:
                value[new_rows] = state[_NETWORK + name][old_rows].to(value.device)
            elif name.startswith(_ADAPTOR):
                vectors = model.catalogue.text_vectors
                assert vectors is not None
                adapted = state[_ADAPTED][old_rows].to(value.device)
                value.copy_(nearest_map(vectors[new_rows], adapted))
            else:
                value.copy_(state[_NETWORK + name])
    told = {
        "warm_from": folder.name, "n_known_items": len(new_rows),
        "n_new_items": len(tokens) - 1 - len(new_rows), "cold_because": None,
    }  # fmt: skip
    _log.info("warm start from %s: %d items known, %d new",
              folder.name, len(new_rows), told["n_new_items"])  # fmt: skip
    return told


def _told_of(about: dict[str, str], state: dict[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """The shape and the items that a file's header tells of.

    Raises:
        ValueError: these are none, or its tensors are not one row an item.
    """
    before, items = parse_json(about["shape"]), parse_json(about["items"])
    if not isinstance(before, dict) or not is_list_of(str, items):
        raise ValueError("its header tells no shape or no items")
    before.setdefault("reader", "attention")  # of a version that knew no other
    rows = [state[name] for name in (_NETWORK + _ID_VECTORS, _ADAPTED) if name in state]
    if any(each.ndim != 2 or len(each) != len(items) + 1 for each in rows):
        raise ValueError(f"its tensors do not have a row for each of {len(items)} items")
    return before, items


def _fits(model: LLMSeqRec, state: dict[str, Tensor]) -> bool:
    """Whether a state has what each weight is made of; its items are as many as it likes."""
    for name, value in model.network.state_dict().items():
        is_adaptor = name.startswith(_ADAPTOR)
        found = state.get(_ADAPTED if is_adaptor else _NETWORK + name)
        if found is None or found.is_complex():
            return False
        shape = tuple(value.shape)
        if is_adaptor:  # (H, E), and what it made of the items is (V, H)
            shape = (*found.shape[:1], value.shape[0])
        elif name == _ID_VECTORS:
            shape = (*found.shape[:1], value.shape[1])
        if tuple(found.shape) != shape:
            return False
    return True


def nearest_map(vectors: Tensor, adapted: Tensor) -> Tensor:
    """(H, E), the linear map that comes nearest from (N, E) text vectors to (N, H) adapted ones."""
    x, y = vectors.double(), adapted.double()
    ridge = _RIDGE * x.square().mean().clamp(min=1e-30) * len(x)
    gram = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight: Tensor = torch.linalg.solve(gram, x.T @ y).T
    return weight.to(vectors.dtype)


def _shape(model: LLMSeqRec) -> dict[str, Any]:
    """What two networks must share for the weights of one to mean something in the other."""
    return {
        **kept_shape(model.options.sequence),
        "item_repr": model.options.item_repr,
        "adaptor": model.options.adaptor if model.options.uses_text else None,
        "modalities": [each.kind for each in model.options.media] or None,
        "modality_fusion": model.options.modality_fusion if model.options.media else None,
    }


def _cold(tokens: list[str], reason: str) -> dict[str, Any]:
    _log.warning("the training starts cold: %s", reason)
    return {
        "warm_from": None, "n_known_items": 0, "n_new_items": len(tokens) - 1, "cold_because": reason
    }  # fmt: skip
