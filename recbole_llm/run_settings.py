"""RecBole's own settings of a run, checked before any training.

RecBole looks at few of its values itself; the others fail where they are first used, which may be
after an epoch, or are taken for something else without a word.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.evaluator import metric_information
from recbole.utils import EvaluatorType, ModelType

from recbole_llm import MODELS
from recbole_llm.errors import ConfigError

_NO_TENSORS = {"data.num_items", "data.count_items"}
"""What RecBole 1.2.1 collects for some metrics and then takes for tensors."""
_EVALUATION = {"split", "group_by", "order", "mode"}
_SPLITS = {"RS", "LS", "TS"}
_LEAVE_ONE = ("valid_and_test", "valid_only", "test_only")
_LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")


def check_run(config: Config) -> None:
    """Check what RecBole would not.

    Raises:
        ConfigError: a value of the wrong type or out of range; the message names the key.
    """
    for key in ("train_batch_size", "eval_batch_size"):
        check_value(config, key, int, lambda v: v >= 1, "at least 1")
    for key in ("epochs", "eval_step", "stopping_step", "seed"):
        check_value(config, key, int, lambda v: v >= 0, "at least 0")
    for key in ("learning_rate", "weight_decay"):
        check_value(config, key, float, lambda v: v >= 0, "at least 0")
    for key in ("enable_amp", "enable_scaler"):
        check_value(config, key, bool, lambda _: True, "True or False")
    check_value(
        config, "learner", str, lambda v: v.lower() in _LEARNERS, f"one of {', '.join(_LEARNERS)}"
    )
    _check_clipping(config)
    _check_metrics(config)
    _check_evaluation(config)
    order = config["eval_args"]["order"]
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and order != "TO":
        raise ConfigError(f"eval_args.order of a sequential model must be TO, got {order!r}")


def check_depth(config: Config, n_items: int) -> None:
    """Check that lists can be as long as they are measured.

    Args:
        n_items: V, padding included, which RecBole ranks last.
    Raises:
        ConfigError: they cannot.
    """
    if config["eval_type"] == EvaluatorType.RANKING and max(config["topk"]) > n_items:
        raise ConfigError(
            f"topk {config['topk']} measures lists of {max(config['topk'])} items, and data set "
            f"{config['dataset']!r} has {n_items - 1}; measure shorter ones"
        )


def check_value(
    config: Config, key: str, kind: type, is_valid: Callable[[Any], Any], expected: str
) -> None:
    """Check one value.

    Args:
        kind: its type; a float may be written as an integer, and is finite.
        is_valid: of a value of that type.
        expected: what it has to be, in words.
    Raises:
        ConfigError: it is not; the message names the key.
    """
    value = config[key]
    allowed = (int, float) if kind is float else kind
    if (
        isinstance(value, bool) != (kind is bool)
        or not isinstance(value, allowed)
        or (isinstance(value, float) and not math.isfinite(value))
        or not is_valid(value)
    ):
        raise ConfigError(f"{key} must be {expected} ({kind.__name__}), got {value!r}")


def make_folder(path: Path) -> None:
    """Make a folder of outputs. RecBole looks whether it is there and then makes it; of two processes
    one then fails.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {path} cannot be made: {error.strerror}") from None


def _check_clipping(config: Config) -> None:
    clipping = config["clip_grad_norm"]
    if not clipping:
        return
    if not isinstance(clipping, dict) or "max_norm" not in clipping:
        raise ConfigError(
            "clip_grad_norm must be ~ or hold what torch's clip_grad_norm_ takes, as {'max_norm': 5}, "
            f"got {clipping!r}"
        )
    if config["enable_scaler"]:
        raise ConfigError(
            "clip_grad_norm would clip gradients that enable_scaler has scaled: leave one of them out"
        )


def _check_evaluation(config: Config) -> None:
    told = config["eval_args"]
    if unknown := sorted(told.keys() - _EVALUATION):
        raise ConfigError(f"eval_args must hold of {sorted(_EVALUATION)}, got {unknown[0]!r}")
    group_by, split = told["group_by"], told["split"]
    if group_by is not None and str(group_by).lower() not in ("user", "none"):
        raise ConfigError(f"eval_args.group_by must be user or ~, got {group_by!r}")
    if not isinstance(split, dict) or len(split) != 1 or not split.keys() <= _SPLITS:
        raise ConfigError(
            "eval_args.split must be one of RS, LS and TS, as {'LS': 'valid_and_test'}, got "
            f"{split!r}"
        )
    ((kind, how),) = split.items()
    is_ratios = (
        isinstance(how, list)
        and len(how) == 3
        and all(isinstance(each, int | float) and each >= 0 for each in how)
        and sum(how) > 0
    )
    if kind == "LS" and how not in _LEAVE_ONE:
        raise ConfigError(f"eval_args.split LS must be one of {_LEAVE_ONE}, got {how!r}")
    if kind != "LS" and not is_ratios:
        raise ConfigError(
            f"eval_args.split {kind} must be three ratios of at least 0, as [0.8, 0.1, 0.1], got "
            f"{how!r}"
        )


def _check_metrics(config: Config) -> None:
    metrics = [str(name).lower() for name in config["metrics"]]
    cuts = config["topk"]
    is_ranking = config["eval_type"] == EvaluatorType.RANKING
    measured = [
        name if name == "gauc" else f"{name}@{cut}" for name in metrics for cut in cuts
    ] if is_ranking else metrics  # fmt: skip
    needed = {need for name in metrics for need in metric_information[name]}
    if config["model"] not in MODELS and needed & _NO_TENSORS:
        raise ConfigError(
            f"metrics {config['metrics']}: RecBole 1.2.1 cannot collect what some of them need, its "
            "data.num_items and data.count_items; leave out ItemCoverage, AveragePopularity, GiniIndex "
            f"and TailPercentage, or measure {MODELS[0]}"
        )
    wanted = config["valid_metric"]
    if not isinstance(wanted, str) or wanted.lower() not in measured:
        raise ConfigError(
            "valid_metric must be one of what metrics and topk measure, "
            f"{', '.join(dict.fromkeys(measured))}; got {wanted!r}"
        )
