"""What a network takes over from the artifact it starts from: its shape, and how it reads texts."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_llm.layers import SequenceConfig
from recbole_llm.scoring import load_artifact

_TRAINED_AWAY = ("hidden_dropout_prob", "attn_dropout_prob", "initializer_range")
_OF_ITEMS = ("encoder", "item_repr", "text_size", "text_whitening", "id_neighbors", "id_prior")


def kept_shape(config: SequenceConfig) -> dict[str, Any]:
    """What two networks must share for the weights of one to mean something in the other."""
    return {key: value for key, value in asdict(config).items() if key not in _TRAINED_AWAY}


def inherited_settings(folder: Path) -> dict[str, Any]:
    """The settings that make a model of an artifact's shape, by their config keys.

    And ``negatives: all``: what is carried over scores from the start, met here or not, so training
    must be able to say of any item that it is wrong.

    Raises:
        ArtifactError: there is no artifact, or it is damaged.
    """
    artifact = load_artifact(folder)
    shape, told = kept_shape(artifact.sequence_config), artifact.metadata.get("options", {})
    length = shape.pop("max_seq_length")
    of_items = {name: told[name] for name in _OF_ITEMS if name in told}
    return {**shape, **of_items, "MAX_ITEM_LIST_LENGTH": length, "negatives": "all"}
