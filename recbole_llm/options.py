"""The settings of LLMSeqRec: defaults below the user's, every key known, every value in range.

RecBole reads a model's defaults only from its own package, accepts any key and answers None for a
missing one. Here our defaults are put beneath what the user gave, and each key is checked.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from recbole.config import Config

from recbole_llm import MODELS
from recbole_llm.adaptors import ADAPTORS
from recbole_llm.config_files import config_path, load_yaml
from recbole_llm.encoder import encoder_names
from recbole_llm.errors import ConfigError
from recbole_llm.inherited import inherited_settings
from recbole_llm.known_keys import TRAIN_KEYS, did_you_mean, known_keys
from recbole_llm.layers import READERS, SequenceConfig
from recbole_llm.modalities import Modality, media_options
from recbole_llm.objective import Objective
from recbole_llm.run_settings import check_value
from recbole_llm.tfidf import NAME as TFIDF

_log = logging.getLogger(__name__)
_PICKLED = ("save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path")
READ_BY_TRAIN = "read_by_train"
"""Attribute of a config that ``train`` made."""

_CHOICES = {
    "reader": READERS, "score": ("dot", "cosine"), "hidden_act": ("gelu", "relu"),
    "adaptor": tuple(ADAPTORS), "decoder": ("softmax", "semantic_ids"), "negatives": ("met", "all"),
    "loss_type": ("CE", "sampled"),
}  # fmt: skip
"""Keys that name one of a few things."""


@dataclass(frozen=True)
class FinetuneOptions:
    """How the text encoder is trained with the model; the keys that begin with ``encoder.``."""

    lora_r: int
    lora_targets: str
    lora_dropout: float
    learning_rate: float
    items_per_step: int
    refresh_epochs: int
    text_loss_weight: float
    mask_prob: float
    gradient_checkpointing: bool


@dataclass(frozen=True)
class PrivacyOptions:
    """How far a model may depend on any one user; the keys that begin with ``privacy.``."""

    epsilon: float
    delta: float | None
    """None stands for a tenth of one over the number of users."""
    max_grad_norm: float
    popularity_share: float


@dataclass(frozen=True)
class ModelOptions:
    """What LLMSeqRec reads of RecBole's config, checked. ``configs/model/LLMSeqRec.yaml`` says
    what each field means."""

    encoder: str
    item_repr: str
    item_text: str | None
    text_size: int
    text_whitening: float
    text_cache: Path
    media: tuple[Modality, ...]
    """What describes an item beside its text."""
    media_path: Path | None
    """None stands for the data set's folder."""
    modality_fusion: str
    finetune: FinetuneOptions | None
    """None leaves the encoder frozen."""
    privacy: PrivacyOptions | None
    """None learns from everybody as much as it can."""
    adaptor: str
    id_neighbors: int
    id_prior: float
    id_dropout_prob: float
    new_item_bias: float
    negatives: str
    decoder: str
    name_levels: int
    name_codes: int
    beam_size: int
    objective: Objective
    ema_decay: float
    train_since: float | None
    """None learns from all events."""
    replay_share: float
    sequence: SequenceConfig

    @property
    def uses_text(self) -> bool:
        """Whether items have a text vector."""
        return self.item_repr in ("id+text", "text")

    @property
    def uses_id(self) -> bool:
        """Whether items have a trainable ID vector."""
        return self.item_repr in ("id+text", "id")


def apply_defaults(config: Config) -> None:
    """Put our defaults beneath the user's settings, in place, and refuse keys nobody reads.

    Safe to call twice. It must run before the dataset is loaded; building the dataset calls it.

    Raises:
        ConfigError: a key that neither RecBole nor we know, one that lets RecBole read a pickle, or one
            that ``train`` alone reads where the config is not its own. A command line flag that
            resembles none is ignored with a warning.
    """
    unread = sorted(key for key in TRAIN_KEYS if config[key] is not None)
    if unread and not getattr(config, READ_BY_TRAIN, False):
        raise ConfigError(
            f"RecBole's own entry points would ignore {', '.join(unread)}: run python -m recbole_llm, "
            "or leave that out"
        )
    if pickled := [key for key in _PICKLED if config[key]]:
        raise ConfigError(
            f"{pickled[0]}: RecBole would read the data set from a pickle of an earlier run, and that "
            "run's settings with it; leave it out, the files are read in seconds"
        )
    defaults = load_yaml(config_path("model", MODELS[0]))
    if config["model"] != MODELS[0]:
        defaults |= load_yaml(config_path("model", config["model"]))
    if config["transfer_from"]:
        defaults |= inherited_settings(Path(config["transfer_from"]))
    given = config.external_config_dict
    known = set(defaults) | known_keys()
    for key in sorted(given.keys() - known):
        hint = did_you_mean(key, known)
        if not hint and key in config.cmd_config_dict:
            # RecBole reads the command line of whatever program it runs in; this is that program's.
            _log.warning(
                "command line flag --%s is neither RecBole's nor LLMSeqRec's: ignored", key
            )
            continue
        raise ConfigError(f"unknown config key {key!r} (value {given[key]!r}){hint}")
    for key, value in defaults.items():
        if key not in given and config[key] != value:
            config[key] = value
    if "load_col" not in given:
        config["load_col"] = sequential_columns(config)
    if config["train_neg_sample_args"] is None:
        config["train_neg_sample_args"] = {
            "distribution": "none", "sample_num": "none", "alpha": "none", "dynamic": False,
            "candidate_num": 0,
        }  # fmt: skip


def sequential_columns(config: Config) -> dict[str, list[str]]:
    """The ``load_col`` of a sequential model, what filters and labels are made from with it: RecBole's
    default leaves the time out for most data sets, and then cannot order them."""
    fields = [config[field] for field in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")]
    filters: list[str] = []
    for key in ("val_interval", "threshold"):
        told = config[key] or {}
        if not isinstance(told, dict):
            raise ConfigError(f"{key} must be ~ or hold what of which field, got {told!r}")
        filters += told
    return {"inter": [*dict.fromkeys([*fields, *filters])]}


def model_options(config: Config) -> ModelOptions:
    """Read and check the model's settings.

    Raises:
        ConfigError: a value of the wrong type or out of range; the message names the key.
    """
    check_value(
        config, "item_repr", str, lambda v: v in ("id+text", "id", "text"), "id+text, id or text"
    )
    check_value(config, "encoder", str, bool, "a name, a path or a Hugging Face name")
    for key in ("item_text", "text_cache", "media_path"):
        if config[key] is not None:
            check_value(config, key, str, lambda _: True, "text, or ~")
    check_value(config, "text_size", int, lambda v: v >= 1, "at least 1")
    check_value(config, "text_whitening", float, lambda v: 0 <= v <= 1, "in [0, 1]")
    check_value(config, "hidden_size", int, lambda v: v >= 1, "at least 1")
    check_value(config, "n_layers", int, lambda v: v >= 1, "at least 1")
    check_value(config, "n_heads", int, lambda v: v >= 1, "at least 1")
    check_value(config, "inner_size", int, lambda v: v >= 1, "at least 1")
    check_value(config, "MAX_ITEM_LIST_LENGTH", int, lambda v: v >= 1, "at least 1")
    check_value(config, "hidden_dropout_prob", float, lambda v: 0 <= v < 1, "in [0, 1)")
    check_value(config, "attn_dropout_prob", float, lambda v: 0 <= v < 1, "in [0, 1)")
    check_value(config, "layer_norm_eps", float, lambda v: v > 0, "above 0")
    check_value(config, "initializer_range", float, lambda v: v > 0, "above 0")
    for key, names in _CHOICES.items():
        check_value(config, key, str, names.__contains__, " or ".join(names))
    check_value(config, "temperature", float, lambda v: v > 0, "above 0")
    check_value(config, "repeat_lags", int, lambda v: v >= 0, "at least 0")
    check_value(config, "id_neighbors", int, lambda v: v >= 0, "at least 0")
    check_value(config, "id_prior", float, lambda v: v > 0, "above 0")
    check_value(config, "id_dropout_prob", float, lambda v: 0 <= v < 1, "in [0, 1)")
    check_value(config, "new_item_bias", float, lambda _: True, "a finite number")
    check_value(config, "name_levels", int, lambda v: v >= 1, "at least 1")
    check_value(config, "name_codes", int, lambda v: v >= 2, "at least 2")
    check_value(config, "beam_size", int, lambda v: v >= 1, "at least 1")
    if config["decoder"] == "semantic_ids" and config["item_repr"] == "id":
        raise ConfigError(
            "decoder semantic_ids names items by their texts, which item_repr id has not"
        )
    check_value(config, "n_negatives", int, lambda v: v >= 1, "at least 1")
    check_value(config, "n_targets", int, lambda v: v >= 1, "at least 1")
    check_value(config, "target_decay", float, lambda v: 0 < v <= 1, "in (0, 1]")
    check_value(config, "dislike_loss_weight", float, lambda v: v >= 0, "at least 0")
    check_value(config, "ema_decay", float, lambda v: 0 <= v < 1, "in [0, 1)")
    check_value(config, "replay_share", float, lambda v: v >= 0, "at least 0")
    if config["train_since"] is not None:
        check_value(
            config, "train_since", float, lambda _: True, "an instant in the time field's unit"
        )
        if not config["warm_start"]:
            raise ConfigError(
                f"train_since (got {config['train_since']!r}) learns what is new on top of an earlier "
                "model: name its artifact by warm_start, or leave train_since out"
            )
    if config["transfer_from"] and config["warm_start"]:
        raise ConfigError(
            "warm_start goes on with the same items, transfer_from starts other items by their texts: "
            f"set one of them, got {config['warm_start']!r} and {config['transfer_from']!r}"
        )
    if config["train_neg_sample_args"]["distribution"] != "none":
        raise ConfigError(
            "train_neg_sample_args must be ~ (None): the loss runs over the whole catalogue, got "
            f"{config['train_neg_sample_args']}"
        )
    if config["hidden_size"] % config["n_heads"]:
        raise ConfigError(
            f"hidden_size must divide by n_heads, got {config['hidden_size']} and "
            f"{config['n_heads']}"
        )
    cache = config["text_cache"] or user_cache_path("recbole_llm") / "text_vectors.sqlite"
    return ModelOptions(
        encoder=config["encoder"],
        item_repr=config["item_repr"],
        item_text=config["item_text"],
        text_size=config["text_size"],
        text_whitening=float(config["text_whitening"]),
        text_cache=Path(cache),
        media=media_options(config),
        media_path=None if config["media_path"] is None else Path(config["media_path"]),
        modality_fusion=config["modality_fusion"],
        finetune=_finetune_options(config),
        privacy=_privacy_options(config),
        adaptor=config["adaptor"],
        id_neighbors=config["id_neighbors"],
        id_prior=float(config["id_prior"]),
        id_dropout_prob=float(config["id_dropout_prob"]),
        new_item_bias=float(config["new_item_bias"]),
        negatives=config["negatives"],
        decoder=config["decoder"],
        name_levels=config["name_levels"],
        name_codes=config["name_codes"],
        beam_size=config["beam_size"],
        objective=Objective(
            loss_type=config["loss_type"],
            n_negatives=config["n_negatives"],
            n_targets=config["n_targets"],
            target_decay=float(config["target_decay"]),
            dislike_loss_weight=float(config["dislike_loss_weight"]),
        ),
        ema_decay=float(config["ema_decay"]),
        train_since=None if config["train_since"] is None else float(config["train_since"]),
        replay_share=float(config["replay_share"]),
        sequence=SequenceConfig(
            hidden_size=config["hidden_size"],
            n_layers=config["n_layers"],
            n_heads=config["n_heads"],
            inner_size=config["inner_size"],
            max_seq_length=config["MAX_ITEM_LIST_LENGTH"],
            hidden_dropout_prob=float(config["hidden_dropout_prob"]),
            attn_dropout_prob=float(config["attn_dropout_prob"]),
            hidden_act=config["hidden_act"],
            layer_norm_eps=float(config["layer_norm_eps"]),
            initializer_range=float(config["initializer_range"]),
            score=config["score"],
            temperature=float(config["temperature"]),
            repeat_lags=config["repeat_lags"],
            reader=config["reader"],
        ),
    )


def _finetune_options(config: Config) -> FinetuneOptions | None:
    kind = config["encoder.finetune"]
    if kind not in (None, "lora"):
        raise ConfigError(f"encoder.finetune must be ~ or lora, got {kind!r}")
    check_value(config, "encoder.lora_r", int, lambda v: v >= 1, "at least 1")
    check_value(
        config, "encoder.lora_targets", str, bool, "all-linear, or layer names joined by '+'"
    )
    check_value(config, "encoder.lora_dropout", float, lambda v: 0 <= v < 1, "in [0, 1)")
    check_value(config, "encoder.learning_rate", float, lambda v: v > 0, "above 0")
    check_value(config, "encoder.items_per_step", int, lambda v: v >= 1, "at least 1")
    check_value(config, "encoder.refresh_epochs", int, lambda v: v >= 1, "at least 1")
    check_value(config, "encoder.text_loss_weight", float, lambda v: v >= 0, "at least 0")
    check_value(config, "encoder.mask_prob", float, lambda v: 0 < v < 1, "in (0, 1)")
    check_value(config, "encoder.gradient_checkpointing", bool, lambda _: True, "True or False")
    if kind is None:
        return None
    first, *others = encoder_names(config["encoder"])
    if config["item_repr"] == "id" or first == TFIDF or set(others) - {TFIDF}:
        raise ConfigError(
            "encoder.finetune trains one language model, named first, as minilm+tfidf, in a model that "
            f"reads text; got encoder {config['encoder']!r} and item_repr {config['item_repr']!r}"
        )
    return FinetuneOptions(
        lora_r=config["encoder.lora_r"],
        lora_targets=config["encoder.lora_targets"],
        lora_dropout=float(config["encoder.lora_dropout"]),
        learning_rate=float(config["encoder.learning_rate"]),
        items_per_step=config["encoder.items_per_step"],
        refresh_epochs=config["encoder.refresh_epochs"],
        text_loss_weight=float(config["encoder.text_loss_weight"]),
        mask_prob=float(config["encoder.mask_prob"]),
        gradient_checkpointing=config["encoder.gradient_checkpointing"],
    )


def _privacy_options(config: Config) -> PrivacyOptions | None:
    check_value(config, "privacy.max_grad_norm", float, lambda v: v > 0, "above 0")
    check_value(config, "privacy.popularity_share", float, lambda v: 0 <= v < 1, "in [0, 1)")
    if config["privacy.epsilon"] is None:
        return None
    check_value(config, "privacy.epsilon", float, lambda v: v > 0, "above 0, or ~")
    if config["privacy.delta"] is not None:
        check_value(config, "privacy.delta", float, lambda v: 0 < v < 1, "in (0, 1), or ~")
    _refuse_what_is_not_private(config)
    delta = config["privacy.delta"]
    return PrivacyOptions(
        epsilon=float(config["privacy.epsilon"]),
        delta=None if delta is None else float(delta),
        max_grad_norm=float(config["privacy.max_grad_norm"]),
        popularity_share=float(config["privacy.popularity_share"]),
    )


def _refuse_what_is_not_private(config: Config) -> None:
    """Raise ConfigError for settings by which users reach the model past the noise."""
    reasons = {
        "warm_start": "the earlier model's weights know its users",
        "encoder.finetune": "the encoder's gradients are not noised",
        "enable_amp": "each user's gradient is clipped in full precision",
    }
    given = [f"{key} ({reason})" for key, reason in reasons.items() if config[key]]
    if config["item_inter_num_interval"] not in (None, "[0,inf)"):
        given.append("item_inter_num_interval (which items stay depends on who met them)")
    if not config["single_spec"]:
        given.append("nproc above 1 (one process draws the users of a step)")
    if config["eval_args"]["group_by"] != "user":
        given.append("eval_args.group_by other than user (a user's split depends on other users)")
    if given:
        raise ConfigError(
            f"privacy.epsilon cannot be kept with {', '.join(given)}: leave it out, or leave out "
            "privacy.epsilon"
        )


def options_as_dict(options: ModelOptions) -> dict[str, Any]:
    """The options as JSON types, for an artifact."""
    paths = {"text_cache": options.text_cache, "media_path": options.media_path}
    return {**asdict(options), **{key: path and str(path) for key, path in paths.items()}}
