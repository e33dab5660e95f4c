"""Each item's nearest others, by content or by what people met together: lists without a network.

A file beside an artifact, ``neighbors.safetensors``, which training writes; ranking by the model does
not read it. A history's items vote for their neighbors, the newest most.

Sizes: V rows of the item matrix including padding, N neighbors of each.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recbole_llm.errors import ArtifactError
from recbole_llm.scoring.artifact import Artifact

NEIGHBORS = "neighbors.safetensors"
CONTENT, COLLABORATIVE = "content", "collaborative"
KINDS = (CONTENT, COLLABORATIVE)
N_KEPT = 50
"""Neighbors of an item that training writes."""
_FORMAT_VERSION = "1"
_READ = 10
"""Newest items of a history that vote."""


@dataclass(frozen=True)
class ItemNeighbors:
    """One kind of nearness."""

    items: NDArray[np.int32]
    """(V, N) rows, the nearest first."""
    weights: NDArray[np.float32]
    """(V, N), at least 0; 0 where there are fewer neighbors."""

    def votes(
        self, rows: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """What histories' items say of others.

        A neighbor of the newest item gets its weight, of the one before half of it, of the third one
        a third, and so on for ten items.

        Args:
            rows: (sum of lengths,) rows, each history oldest first, one after the other.
            lengths: (B,)
        Returns:
            (P,) numbers of histories, (P,) rows, and (P,) what each row got in that history. Each
            pair stands once, in order.
        """
        ends = lengths.cumsum()
        owners = np.repeat(np.arange(len(lengths)), lengths)
        lags = ends[owners] - np.arange(len(rows))  # 1 for the newest
        is_read = lags <= _READ
        items = self.items[rows[is_read]].astype(np.int64)  # (R, N)
        weights = self.weights[rows[is_read]] / lags[is_read, None]
        keys = owners[is_read, None] * len(self.items) + items
        found, places = np.unique(keys[weights > 0], return_inverse=True)
        sums = np.bincount(places, weights[weights > 0], minlength=len(found))
        return found // len(self.items), found % len(self.items), sums.astype(np.float32)


def write_neighbors(
    neighbors: Mapping[str, ItemNeighbors], model_version: str, folder: Path
) -> None:
    """Write the file beside an artifact.

    Args:
        neighbors: by kind, some of ``KINDS``.
    """
    tensors = {}
    for kind, each in neighbors.items():
        tensors[f"{kind}.items"] = each.items.astype(np.int32)
        tensors[f"{kind}.weights"] = each.weights.astype(np.float16)
    staging = folder / f".{NEIGHBORS}"
    about = {"format_version": _FORMAT_VERSION, "model_version": model_version}
    save_file(tensors, staging, metadata={"about": json.dumps(about)})
    staging.rename(folder / NEIGHBORS)


def read_neighbors(folder: Path, artifact: Artifact) -> dict[str, ItemNeighbors]:
    """Read what was written beside an artifact, by kind.

    Raises:
        ArtifactError: it is absent, damaged, of another format, or of another artifact.
    """
    path = folder / NEIGHBORS
    if not path.is_file():
        raise ArtifactError(
            f"artifact {folder} has no {NEIGHBORS}: it is of an older version of recbole_llm; train "
            "again, or take sources of a list that need none (model, popular, recent)"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        versions = (artifact.model_version, artifact.metadata.get("compressed_from"))
        if about.get("format_version") != _FORMAT_VERSION or about["model_version"] not in versions:
            raise ValueError(f"its header tells {about}")
        kinds = {name.partition(".")[0] for name in tensors}
        found = {kind: _checked(kind, tensors, len(artifact.item_matrix)) for kind in kinds}
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(
            f"{path} does not belong to artifact {artifact.model_version} or is damaged: {error}; "
            "restore the folder or train again"
        ) from None
    return found


def _checked(kind: str, tensors: dict[str, NDArray[Any]], n_rows: int) -> ItemNeighbors:
    items, weights = tensors[f"{kind}.items"], tensors[f"{kind}.weights"]
    if (
        items.dtype != np.int32
        or weights.dtype != np.float16
        or items.ndim != 2
        or items.shape != weights.shape
        or len(items) != n_rows
    ):
        raise ValueError(f"{kind} has {items.shape} {items.dtype} for {n_rows} rows")
    if items.size and not 0 <= items.min() <= items.max() < n_rows:
        raise ValueError(f"{kind} names rows beyond {n_rows}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"{kind} has weights that are negative or no numbers")
    return ItemNeighbors(items, weights.astype(np.float32))
