"""Start a network on one domain from an artifact of another: an item is its text.

The two catalogues share no ids, so nothing is carried over item by item, as ``warm_start`` does. What
reads histories is taken as it is. An item of the new domain gets the vector that the old network gives
to a new item of that text: the text, adapted, and the ID part of the old items with like texts. The new
network's adaptor is the linear map of its own text vectors that comes nearest to the adapted texts;
what is left of the vectors goes into its ID vectors.

Sizes: V items including the padding row 0, S items of the old catalogue, H hidden size, E width of
the text vectors.
"""

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.encoder import find_encoder
from recbole_llm.errors import ConfigError
from recbole_llm.inherited import kept_shape
from recbole_llm.item_parts import ID, ItemParts, read_parts, word_vectors
from recbole_llm.layers import LinearAdaptor
from recbole_llm.model import LLMSeqRec
from recbole_llm.neighbors import text_neighbors
from recbole_llm.scoring import Artifact, load_artifact
from recbole_llm.scoring.artifact import ADAPTER
from recbole_llm.text_cache import encode_cached
from recbole_llm.text_vectors import read_texts
from recbole_llm.warm_start import nearest_map
from recbole_llm.weighted_rows import weighted_rows

_log = logging.getLogger(__name__)


@torch.no_grad()
def start_transferred(model: LLMSeqRec, dataset: LLMSeqRecDataset, folder: Path) -> dict[str, Any]:
    """Put what an artifact learnt on another data set into a new model, in place.

    Args:
        model: as it was built on ``dataset``; its shape is the artifact's where nobody set another.
        dataset: the new domain's.
        folder: the artifact's.
    Returns:
        ``transferred_from`` (the artifact's name), ``from_dataset``, ``n_items`` and
        ``n_without_text``, which start as an average item.
    Raises:
        ConfigError: the model's shape is another, or one of the two reads no texts.
        ArtifactError: the artifact is damaged, or what explains it is not there.
    """
    artifact = load_artifact(folder)
    parts = read_parts(folder, artifact)
    _check(model, artifact, parts, folder)
    device, options = model.is_known.device, model.options
    texts = dataset.item_texts()
    has_text = torch.tensor([bool(text) for text in texts], device=device)
    adapted = _adapted(parts, texts, options.text_cache, str(device))  # (V, H)
    vectors = adapted + _borrowed_ids(artifact, parts, texts, model)
    vectors[~has_text] = vectors[has_text].mean(0)
    text_vectors = model.catalogue.text_vectors
    assert text_vectors is not None, "checked above"
    weight = nearest_map(text_vectors[has_text], adapted[has_text])
    for network in {model.network, model.scoring_network}:
        network.sequences.load_state_dict(artifact.encoder_weights)
        if network.repeats is not None:
            network.repeats.load_state_dict(artifact.repeat_weights)
        cast(LinearAdaptor, network.items.adaptor).weight.copy_(weight)
        if network.items.id_embedding is not None:
            network.items.id_embedding.weight.copy_(vectors - text_vectors @ weight.T)
    told = {
        "transferred_from": folder.name, "from_dataset": artifact.metadata.get("dataset"),
        "n_items": len(texts) - 1, "n_without_text": texts.count("") - 1,
    }  # fmt: skip
    _log.info("transfer from %s, trained on %s: %d items by their texts",
              folder.name, told["from_dataset"], told["n_items"])  # fmt: skip
    return told


def _check(model: LLMSeqRec, artifact: Artifact, parts: ItemParts, folder: Path) -> None:
    now, before = kept_shape(model.options.sequence), kept_shape(artifact.sequence_config)
    differing = [
        f"{key} is {now[key]}, was {was}" for key, was in before.items() if now[key] != was
    ]
    if differing:
        raise ConfigError(
            f"transfer_from {folder} does not fit: {', '.join(differing)}; leave these keys out, and "
            "the model takes the artifact's"
        )
    if not parts.sources or not isinstance(model.network.items.adaptor, LinearAdaptor):
        raise ConfigError(
            "transfer_from goes by texts: the artifact and the model need item_repr id+text or text, "
            f"and the model the linear adaptor; got {model.options.item_repr!r}, adaptor "
            f"{model.options.adaptor!r}, and an artifact of {len(parts.sources)} encoders"
        )
    if (folder / ADAPTER).is_dir() or model.tuned is not None:
        raise ConfigError(
            "transfer_from takes encoders that stay as they are: the artifact's or the model's is "
            "fine-tuned. Set encoder.finetune on the new domain after a transfer from a frozen one"
        )


def _adapted(parts: ItemParts, texts: list[str], cache: Path, device: str) -> Tensor:
    """(V, H) float32 what the old network makes of new texts; zero without a text."""
    described = [text for text in texts if text]
    total = torch.zeros(len(described), parts.sources[0].matrix.shape[1])
    for source in parts.sources:
        if source.terms is not None:
            total += word_vectors(source, described)
        else:
            encoded = encode_cached(described, find_encoder(source.encoder), cache, device)
            total += torch.from_numpy(encoded) @ source.matrix + source.offset
    adapted = torch.zeros(len(texts), total.shape[1])
    adapted[torch.tensor([bool(text) for text in texts])] = total
    return adapted.to(device)


def _borrowed_ids(
    artifact: Artifact, parts: ItemParts, texts: list[str], model: LLMSeqRec
) -> Tensor:
    """(V, H) float32 what IDs add to new items: the mean of the old items with like texts."""
    options, device = model.options, model.is_known.device
    rows = torch.arange(len(artifact.item_matrix))
    ids = parts.of(rows, artifact.item_matrix)[ID]  # (S + 1, H)
    if not options.id_neighbors:
        return ids[1:].mean(0).expand(len(texts), -1).to(device)
    encoder = "+".join(source.encoder for source in parts.sources)
    together, _ = read_texts(
        ["", *parts.texts, *texts[1:]], encoder, options.text_size, options.text_whitening,
        options.text_cache, str(device),
    )  # fmt: skip
    is_old = np.arange(len(together)) <= len(parts.texts)
    is_known = torch.from_numpy(is_old & together.any(1)).to(device)
    neighbors, weights = text_neighbors(
        torch.from_numpy(together).to(device), is_known, options.id_neighbors
    )
    new = torch.tensor([0, *range(len(parts.texts) + 1, len(together))], device=device)
    return weighted_rows(ids.to(device), neighbors[new], weights[new])
