"""Start a network on one domain from an artifact of another: an item is its text.

The two catalogues share no ids, so nothing is carried over item by item, as ``warm_start`` does. What
reads histories is taken as it is. An item of the new domain gets the vector that the old network gives
to a new item of that text: the text, adapted, and the ID part of the old items with like texts. The new
network's adaptor is the linear map of its own text vectors that comes nearest to the adapted texts;
what is left of the vectors goes into its ID vectors.

An item whose text is like no old one would get a vector by chance, and some of these would rank first.
Where the catalogues overlap, a vector is therefore drawn toward the mean of all, the more the less its
text is like the likest old one.

Sizes: V items including the padding row 0, U items of the artifact likewise, H hidden size.
"""

import logging
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from recbole_llm.adaptors import LinearAdaptor
from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.errors import ConfigError
from recbole_llm.inherited import kept_shape
from recbole_llm.item_parts import ItemParts, read_parts
from recbole_llm.model import LLMSeqRec
from recbole_llm.new_items import Reading, check_readable, read_new_items
from recbole_llm.scoring import Artifact, load_artifact
from recbole_llm.warm_start import nearest_map

_log = logging.getLogger(__name__)
_SIMILARITIES = 1 << 22
"""Held at once."""


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
    reading = Reading(
        options.text_size,
        options.text_whitening,
        options.id_neighbors,
        options.text_cache,
        str(device),
    )
    read = read_new_items(artifact, parts, texts, reading)
    trust = _trust(read.text_vectors.to(device), len(artifact.item_matrix), has_text).unsqueeze(1)
    adapted, ids = (
        torch.lerp(part[has_text].mean(0), part, trust)  # (V, H)
        for part in (read.adapted.to(device), read.ids.to(device))
    )
    vectors = adapted + ids
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


def _trust(text_vectors: Tensor, n_old: int, has_text: Tensor) -> Tensor:
    """(V,) how far each item's vector is taken from the mean of all; 0 without text.

    1 less what the text lacks in likeness to the likest old one, which counts by the square of the
    catalogues' overlap: the likeness that a tenth of the new items reach. Between catalogues that share
    nothing, how little an item is like any says nothing.

    Args:
        text_vectors: (U + V, E) float, whitened together.
        n_old: U.
        has_text: (V,) bool.
    """
    unit = functional.normalize(text_vectors, dim=1)
    old = unit[:n_old].T.contiguous()
    blocks = torch.split(unit[n_old:], max(_SIMILARITIES // n_old, 1))
    likeness = torch.cat([(block @ old).amax(1) for block in blocks]).clamp(0, 1)
    overlap = likeness[has_text].quantile(0.9)
    return (1 - overlap**2 * (1 - likeness)) * has_text


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
    check_readable(parts, folder)
    options = model.options
    reads_other = model.tuned is not None or options.media
    if not isinstance(model.network.items.adaptor, LinearAdaptor) or reads_other:
        raise ConfigError(
            "transfer_from goes by texts: the model needs item_repr id+text or text, a linear adaptor, "
            f"a frozen encoder and no pictures or sounds, got {options.item_repr!r}, "
            f"{options.adaptor!r}, encoder.finetune {'lora' if model.tuned else None!r} and "
            f"{[each.field for each in options.media]}"
        )
