"""What may describe an item beside its text: a picture, a sound; and how all of it stands together.

Sizes: V items including padding, E columns of all that describes them, M modalities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_llm.adaptors import FUSIONS
from recbole_llm.errors import ConfigError

TEXT = "text"
_KINDS = {"image": "picture", "audio": "sound"}
"""What the config keys call a modality, and what people call one item's."""
MEDIA = tuple(_KINDS.values())


@dataclass(frozen=True)
class Modality:
    """Pictures or sounds: where they stand and what reads them."""

    kind: str
    """``picture`` or ``sound``."""
    field: str
    """The column of the ``.item`` file: paths, or ``data:`` URIs."""
    encoder: str
    """A name in ``configs/encoder/``, a local folder, or a Hugging Face name."""


@dataclass(frozen=True)
class Described:
    """What describes the items, one modality's columns beside the other's."""

    vectors: NDArray[np.float32]
    """(V, E), zero where an item lacks a modality; row 0 is padding and zero."""
    widths: dict[str, int]
    """Columns of each modality by name, ``text`` first; E together."""
    missing: NDArray[np.float32] | None
    """(V, M), 1 where an item lacks a modality; None with texts alone."""


def media_options(config: Mapping[str, Any]) -> tuple[Modality, ...]:
    """The modalities that the config keys name, pictures first.

    Raises:
        ConfigError: a field without an encoder, the reverse, or one field for two modalities; a model
            that describes no item; a fusion that is unknown, or that the adaptor does not go with.
    """
    fusion = config["modality_fusion"]
    if fusion not in FUSIONS:
        raise ConfigError(f"modality_fusion must be {' or '.join(FUSIONS)}, got {fusion!r}")
    found = []
    for key, kind in _KINDS.items():
        field, encoder = config[f"{key}_field"], config[f"{key}_encoder"]
        for name, value in ((f"{key}_field", field), (f"{key}_encoder", encoder)):
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigError(f"{name} must be a name, or ~, got {value!r}")
        if (field is None) != (encoder is None):
            raise ConfigError(
                f"{key}_field says where the {kind}s are and {key}_encoder what reads them: give both "
                f"or neither, got {field!r} and {encoder!r}"
            )
        if field is not None:
            found.append(Modality(kind, field, encoder))
    if len({each.field for each in found}) < len(found):
        raise ConfigError(f"image_field and audio_field are one field, {found[0].field!r}")
    if found and config["item_repr"] == "id":
        raise ConfigError(
            f"image_field and audio_field describe items, which item_repr id does not; got "
            f"{found[0].field!r}. Take item_repr id+text, or leave the field out"
        )
    if found and fusion == "gate" and config["adaptor"] != "linear":
        raise ConfigError(
            "modality_fusion gate has a linear map for each modality, and no adaptor "
            f"{config['adaptor']!r}; take adaptor linear, or modality_fusion concat"
        )
    return tuple(found)


def join_modalities(
    parts: dict[str, NDArray[np.float32]], has: dict[str, NDArray[np.bool_]]
) -> Described:
    """Put modalities side by side.

    The variances of a modality's columns are made to add up to those of the texts, or a hundred
    columns would drown eight; the texts' own stay as they are.

    Args:
        parts: by name, ``text`` first, (V, size) float32 of unit variance on average over columns; zero
            where an item lacks it.
        has: by name, (V,) whether an item has it; False for padding.
    """
    widths = {name: part.shape[1] for name, part in parts.items()}
    if len(parts) == 1:
        return Described(parts[TEXT], widths, None)
    scaled = [
        part * np.float32((widths[TEXT] / widths[name]) ** 0.5) for name, part in parts.items()
    ]
    missing = np.stack([~has[name] for name in parts], axis=1).astype(np.float32)
    missing[0] = 0
    return Described(np.hstack(scaled), widths, missing)
