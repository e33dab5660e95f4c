"""The config keys that somebody reads: RecBole's, its models', ours."""

import difflib
from collections.abc import Collection
from pathlib import Path

import recbole
from recbole.utils import argument_list

from recbole_llm import MODELS
from recbole_llm.config_files import config_path, load_yaml

_RUN_KEYS = {
    "model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "group_offset",
    "offset", "local_rank", "single_spec", "params_file", "output_file", "display_file", "tool",
    "max_evals", "early_stop", "numerical_features", "discretization", "transform", "worker",
    "shuffle", "enable_amp", "enable_scaler", "require_pow", "wandb_project", "encoding",
    "tail_ratio", "token_num_threshold", "valid_neg_sample_args", "test_neg_sample_args",
}  # fmt: skip
"""Keys of RecBole's entry points and code that stand in none of its property files."""
TRAIN_KEYS = {"artifact_dir", "data_cut", "resume_dir", "warm_start", "transfer_from"}
"""Ours that belong to a run, not to the model: ``train`` reads them."""


def known_keys(model: str | None = None) -> set[str]:
    """Keys of RecBole, and ours of a run, with those of all its models or those of one.

    Args:
        model: RecBole's or ours, with whose keys alone; None for all of RecBole's.
    """
    keys = _RUN_KEYS | TRAIN_KEYS
    for name in ("general", "training", "evaluation", "dataset"):
        keys.update(getattr(argument_list, f"{name}_arguments"))
    for path in (Path(recbole.__file__).parent / "properties").rglob("*.yaml"):
        is_others = path.parent.name == "model" and model not in (None, path.stem)
        if "url" not in path.name and path.stat().st_size and not is_others:
            keys.update(load_yaml(path))
    if model in MODELS:
        keys.update(
            load_yaml(config_path("model", MODELS[0])), load_yaml(config_path("model", model))
        )
    return keys


def did_you_mean(key: str, known: Collection[str]) -> str:
    """The end of an error about an unknown key: the known one that it resembles, "" where none does."""
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]!r}?" if close else ""
