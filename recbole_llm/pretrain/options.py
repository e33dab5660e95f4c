"""The settings of pre-training: ``configs/pretrain.yaml`` beneath the user's, every one checked."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recbole_llm.config_files import config_path, load_yaml
from recbole_llm.errors import ConfigError

OBJECTIVES = ("contrastive", "denoising", "mlm", "clm")
_CORPORA = ("items", "sequences", "items+sequences")


@dataclass(frozen=True)
class PretrainOptions:
    """What ``configs/pretrain.yaml`` holds; it says what each field means."""

    objective: str
    encoder: str
    epochs: float
    train_batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_ratio: float
    eval_steps: float
    n_valid_users: int
    seed: int
    max_tokens: int
    lora_r: int
    enable_amp: bool
    gradient_checkpointing: bool
    pair_window: int
    scale: float
    popularity_correction: bool
    corpus: str
    sequence_items: int
    mask_prob: float
    deletion_prob: float
    held_out: float


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "objective": (lambda v: v in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
    "encoder": (bool, "a name, a path or a Hugging Face name"),
    "epochs": (lambda v: v > 0, "above 0"),
    "train_batch_size": (lambda v: v >= 2, "at least 2"),
    "learning_rate": (lambda v: v > 0, "above 0"),
    "weight_decay": (lambda v: v >= 0, "at least 0"),
    "warmup_ratio": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "eval_steps": (lambda v: 0 < v <= 1, "in (0, 1]"),
    "n_valid_users": (lambda v: v >= 1, "at least 1"),
    "max_tokens": (lambda v: v >= 2, "at least 2"),
    "lora_r": (lambda v: v >= 0, "at least 0"),
    "pair_window": (lambda v: v >= 1, "at least 1"),
    "scale": (lambda v: v > 0, "above 0"),
    "corpus": (lambda v: v in _CORPORA, f"one of {', '.join(_CORPORA)}"),
    "sequence_items": (lambda v: v >= 2, "at least 2"),
    "mask_prob": (lambda v: 0 < v < 1, "in (0, 1)"),
    "deletion_prob": (lambda v: 0 < v < 1, "in (0, 1)"),
    "held_out": (lambda v: 0 < v < 1, "in (0, 1)"),
}


def pretrain_options(
    config_files: list[str] | None = None, given: dict[str, Any] | None = None
) -> tuple[PretrainOptions, dict[str, Any]]:
    """Read the settings; the defaults rank below the files, the files below ``given``.

    Returns:
        The options, and the other keys, which are RecBole's to read (``data_path``, ``item_text``, …).
    Raises:
        ConfigError: no such file, a value of the wrong type or out of range, or a key that is
            probably a misspelt one.
    """
    defaults = load_yaml(config_path(".", "pretrain"))
    settings = dict(defaults)
    for file in config_files or []:
        settings |= load_yaml(Path(file))
    settings |= given or {}
    ours = {field.name: field.type for field in fields(PretrainOptions)}
    values = {}
    for key, kind in ours.items():
        values[key] = _checked(key, settings[key], kind)
    rest = {key: value for key, value in settings.items() if key not in ours}
    for key in rest:
        if close := difflib.get_close_matches(key, ours, n=1, cutoff=0.8):
            raise ConfigError(
                f"unknown config key {key!r} (value {settings[key]!r}); did you mean {close[0]!r}?"
            )
    return PretrainOptions(**values), rest


def _checked(key: str, value: Any, kind: Any) -> Any:
    allowed = (int, float) if kind is float else kind
    is_kind = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
    is_valid, expected = _RULES.get(key, (lambda _: True, "a value"))
    if not is_kind or not is_valid(value):
        raise ConfigError(f"{key} must be {expected} ({kind.__name__}), got {value!r}")
    return value
