"""Let the champion rank a day's new items on their first day, by their texts.

An item that came after the champion was trained has no row in its item matrix. It gets the vector that
the network gives to an item without events, and a copy of the artifact, with these rows behind the
others, ranks the day. The copy is made from the champion each day, not from yesterday's copy, so it
depends on the champion and the day's catalogue alone. Nothing is trained: the next training takes the
items in as any others.
"""

import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import RecboleLlmError
from recbole_llm.export_atomic import export_items
from recbole_llm.item_links import content_neighbors
from recbole_llm.item_parts import ItemParts, read_parts, write_parts
from recbole_llm.item_text import TITLE_FIELDS, read_text_columns, render_texts
from recbole_llm.json_files import read_json
from recbole_llm.kept_models import prune_extended
from recbole_llm.new_items import NewItems, Reading, check_readable, read_new_items
from recbole_llm.scoring import Artifact, load_artifact, write_artifact
from recbole_llm.scoring.item_neighbors import (
    CONTENT,
    NEIGHBORS,
    ItemNeighbors,
    read_neighbors,
    write_neighbors,
)
from recbole_llm.warehouse import Warehouse, replace_json

_log = logging.getLogger(__name__)


def extend_champion(warehouse: Warehouse, day: str) -> Path:
    """Make the model that ranks a day, and say so in the day's ``model.json``.

    Args:
        day: its features must exist.
    Returns:
        The artifact's folder: the champion's own where there is no new item with a text, or where the
        champion cannot read new texts, which is a warning.
    Raises:
        NotFoundError: there is no champion, or the day has no features.
    """
    champion, manifest = warehouse.champion_artifact(), warehouse.features_manifest(day)
    told = {"champion": champion.name, "fingerprint": manifest["fingerprint"]}
    pointer = warehouse.day_model(day)
    if pointer.is_file():
        before = dict(read_json(pointer))
        is_there = (warehouse.artifacts / str(before.get("model_version"))).is_dir()  # not pruned
        if is_there and told.items() <= before.items():
            return warehouse.ranking_artifact(day)
    started = time.monotonic()
    try:
        path = _extended(champion, warehouse.root / manifest["path"], warehouse)
    except RecboleLlmError as error:
        _log.warning("the day's new items are not ranked by champion %s: %s", champion.name, error)
        path = champion
    replace_json(pointer, {**told, "model_version": path.name})
    if path != champion:
        prune_extended(warehouse, {path.name})
        _log.info("champion %s ranks %d new items as %s, %.1f s", champion.name,
                  load_artifact(path).metadata["n_new_items"], path.name,
                  time.monotonic() - started)  # fmt: skip
    return path


def _extended(champion: Path, features: Path, warehouse: Warehouse) -> Path:
    artifact = load_artifact(champion)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "items.item"
        export_items(features, file)
        table = read_text_columns(file, "item_id", "\t", "utf-8")
    table = table[~table.index.isin(artifact.item_ids)]
    if not len(table):
        return champion
    options = artifact.metadata.get("options", {})
    texts = dict(zip(table.index, render_texts(table, options.get("item_text")), strict=True))
    texts = {item: text for item, text in texts.items() if any(map(str.isalnum, text))}
    if not texts:
        return champion
    parts = read_parts(champion, artifact)
    check_readable(parts, champion)
    reading = Reading(
        options["text_size"], options["text_whitening"], options["id_neighbors"],
        warehouse.text_cache,
    )  # fmt: skip
    column = next((name for name in TITLE_FIELDS if name in table), table.columns[0])
    titles = [str(table[column][item]) for item in texts]
    return extend_artifact(champion, artifact, parts, texts, titles, reading, warehouse.artifacts)


def extend_artifact(
    folder: Path, artifact: Artifact, parts: ItemParts, texts: dict[str, str], titles: list[str],
    reading: Reading, root: Path,
) -> Path:  # fmt: skip
    """Write an artifact with more items, and beside it what explains it and what is near what.

    Args:
        folder: the artifact's.
        parts: its own.
        texts: non-empty, by external ids that it does not know.
        titles: one a text.
        root: where the new folder goes.
    Returns:
        The new artifact's folder.
    """
    read = read_new_items(artifact, parts, [*texts.values()], reading)
    vectors = read.adapted + read.ids  # (N, H)
    options: dict[str, Any] = artifact.metadata.get("options", {})
    bias = torch.full((len(texts),), float(options.get("new_item_bias", 0.0)))
    larger = replace(
        artifact,
        item_matrix=torch.cat([artifact.item_matrix, vectors]),
        item_bias=torch.cat([artifact.item_bias, bias]),
        item_ids=[*artifact.item_ids, *texts],
        titles=[*artifact.titles, *titles],
        n_events=artifact.n_events and [*artifact.n_events, *[0] * len(texts)],
        metadata={
            **artifact.metadata, "extended_from": artifact.model_version, "n_new_items": len(texts)
        },
    )  # fmt: skip
    target = write_artifact(larger, root)
    if (folder / NEIGHBORS).is_file():
        neighbors = _neighbors(folder, artifact, read.text_vectors)
        write_neighbors(neighbors, target.name, target)
    write_parts(_more(parts, [*texts.values()], read), target.name, target)
    return target


def _more(parts: ItemParts, texts: list[str], read: NewItems) -> ItemParts:
    """The parts with the new items' rows; what an average item is stays that of the champion."""
    sources = [
        source if source.vectors is None
        else replace(source, vectors=torch.cat([source.vectors, rows.half()]))
        for source, rows in zip(parts.sources, read.by_encoder, strict=True)
    ]  # fmt: skip
    return replace(parts, texts=[*parts.texts, *texts], sources=sources)


def _neighbors(folder: Path, artifact: Artifact, text_vectors: Tensor) -> dict[str, ItemNeighbors]:
    """By content anew among all items; nobody has met anything after the new ones yet."""
    found = {
        kind: _with_empty_rows(each, len(text_vectors))
        for kind, each in read_neighbors(folder, artifact).items()
    }
    return {**found, CONTENT: content_neighbors(text_vectors)}


def _with_empty_rows(neighbors: ItemNeighbors, n_rows: int) -> ItemNeighbors:
    more = ((0, n_rows - len(neighbors.items)), (0, 0))
    return ItemNeighbors(np.pad(neighbors.items, more), np.pad(neighbors.weights, more))
