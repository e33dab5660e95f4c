"""From a trained model in RecBole to an artifact that needs RecBole no more."""

import logging
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from torch import Tensor

from recbole_llm.adaptors import GateAdaptor, LinearAdaptor
from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.item_links import content_neighbors, following_items
from recbole_llm.item_parts import (
    MISSING,
    ItemParts,
    TextPart,
    WholePart,
    word_vectors,
    write_parts,
)
from recbole_llm.item_text import TITLE_FIELDS
from recbole_llm.modalities import TEXT
from recbole_llm.model import LLMSeqRec
from recbole_llm.options import options_as_dict
from recbole_llm.scoring import Artifact, load_artifact, write_artifact
from recbole_llm.scoring.artifact import ADAPTER
from recbole_llm.scoring.item_neighbors import COLLABORATIVE, CONTENT, ItemNeighbors
from recbole_llm.text_maps import TextMap
from recbole_llm.warm_start import write_training_state

_log = logging.getLogger(__name__)
_LIBRARIES = ("recbole", "torch", "transformers", "sentence-transformers", "numpy")


@torch.no_grad()
def export_artifact(
    model: LLMSeqRec,
    dataset: LLMSeqRecDataset,
    config: Config,
    metrics: dict[str, dict[str, float]],
    root: Path,
) -> Path:
    """Write the model to ``root/<model_version>``; beside it what a later training can start from, and
    what explanations need.

    Args:
        metrics: RecBole's results by split, ``{"test": {"ndcg@10": ...}}``.
    Returns:
        The artifact's folder.
    """
    model.eval()
    network = model.scoring_network
    tokens = dataset.item_tokens()[1:]
    artifact = Artifact(
        sequence_config=model.options.sequence,
        encoder_weights=network.sequences.state_dict(),
        repeat_weights={} if network.repeats is None else network.repeats.state_dict(),
        item_matrix=model.item_matrix().float(),
        item_bias=model.item_bias,
        item_ids=tokens,
        titles=_titles(dataset, tokens),
        n_events=model.n_events[1:],
        metadata={
            "dataset": config["dataset"],
            "data_cut": config["data_cut"],
            "seed": config["seed"],
            "metrics": metrics,
            "options": options_as_dict(dataset.options),
            "versions": {name: version(name) for name in _LIBRARIES},
            **({} if model.noise is None else {"privacy": asdict(model.noise)}),
        },
    )
    path = write_artifact(artifact, root)
    write_training_state(model, dataset.item_tokens(), path)
    parts = item_parts(model, dataset)
    if parts is not None:
        write_parts(parts, path.name, path)
    if model.tuned is not None:
        model.tuned.save(path / ADAPTER)
    load_artifact(path)  # what cannot be read back must not be announced
    _log.info("artifact: %s (%d items)", path, len(tokens))
    return path


def _titles(dataset: LLMSeqRecDataset, tokens: list[str]) -> list[str]:
    """A short name an item: the first title-like column of the ``.item`` file, else its first."""
    table: Any = dataset.item_table
    if table is None or not len(table.columns):
        return [""] * len(tokens)
    column = next((name for name in TITLE_FIELDS if name in table.columns), table.columns[0])
    titles = dict(zip(table.index, table[column], strict=True))
    return [titles.get(token, "") for token in tokens]


def item_neighbors(model: LLMSeqRec, dataset: LLMSeqRecDataset) -> dict[str, ItemNeighbors]:
    """Each item's neighbors: by its text, where texts are read, and by what people met after it.

    In a private training there are none of the second kind, which would tell who met what.

    Args:
        dataset: the training rows.
    """
    found, vectors = {}, model.catalogue.text_vectors
    if vectors is not None:
        found[CONTENT] = content_neighbors(vectors)
    if model.options.privacy is None:
        found[COLLABORATIVE] = following_items(dataset.training_sequences(), dataset.item_num)
    return found


@torch.no_grad()
def item_parts(model: LLMSeqRec, dataset: LLMSeqRecDataset) -> ItemParts | None:
    """What the model's item vectors are made of; None where texts do not add up, in a mixture."""
    options, network = model.options, model.scoring_network.items
    adaptor, vectors = network.adaptor, model.catalogue.text_vectors
    if not isinstance(adaptor, LinearAdaptor | GateAdaptor | None):
        _log.info("no explanation of texts: adaptor %s is a mixture", options.adaptor)
        return None
    texts, sources, wholes, start = dataset.item_texts(), [], [], 0
    if adaptor is None or vectors is None:
        return ItemParts(texts[1:], options.uses_id, [])
    if isinstance(adaptor, LinearAdaptor):
        columns, weight = vectors.cpu(), adaptor.weight.cpu()  # (V, E), (H, E)
        for text_map in model.text_maps:
            end = start + len(text_map.offset)
            part = slice(start, end)
            sources.append(_text_part(text_map, columns[:, part], weight[:, part].T, texts))
            start = end
        for name, width in model.widths.items():
            if name != TEXT:
                end = start + width
                wholes.append(_whole(name, columns[:, start:end] @ weight[:, start:end].T))
                start = end
    else:
        found = zip(model.widths, adaptor.parts(vectors), strict=True)
        wholes = [_whole(name, part) for name, part in found]
    if network.defaults is not None and model.catalogue.missing is not None:
        wholes.append(_whole(MISSING, network.defaults(model.catalogue.missing)))
    return ItemParts(texts[1:], options.uses_id, sources, wholes)


def _whole(name: str, vectors: Tensor) -> WholePart:
    """A part of (V, H) vectors, as it is kept."""
    kept = vectors.cpu().half()
    return WholePart(name, kept[1:].float().mean(0), kept)


def _text_part(text_map: TextMap, columns: Tensor, weight: Tensor, texts: list[str]) -> TextPart:
    """One encoder's part, from its (V, size) columns and their (size, H) weights."""
    matrix = torch.from_numpy(text_map.matrix) @ weight
    offset = torch.from_numpy(text_map.offset) @ weight
    if text_map.terms is None:
        vectors = (columns @ weight).half()
        mean = vectors[1:].float().mean(0)
        return TextPart(text_map.encoder, matrix, offset, mean, vectors)
    matrix = matrix.half().float()  # as it is kept, so that the mean is of what is read
    source = TextPart(text_map.encoder, matrix, offset, offset, None, text_map.terms)
    read = word_vectors(source, [text for text in texts[1:] if text])
    return replace(source, mean=read.sum(0) / (len(texts) - 1))
