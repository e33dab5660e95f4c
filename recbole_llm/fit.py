"""Train a network to the weights that are best on validation, by RecBole's trainer."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.utils import get_model, get_trainer, init_seed
from torch import nn

from recbole_llm import MODELS
from recbole_llm.best_weights import BestWeights
from recbole_llm.errors import ConfigError
from recbole_llm.resume import Unfinished
from recbole_llm.run_settings import make_folder
from recbole_llm.transfer import start_transferred
from recbole_llm.warm_start import start_warm

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A network with the weights that were best on validation, and how it came to them."""

    network: nn.Module
    trainer: Any
    """RecBole's trainer around the network; it evaluates."""
    valid_result: dict[str, float]
    epochs: int
    best_epoch: int | None
    start: dict[str, Any] | None
    unfinished: Unfinished | None
    """What the next try would go on from, to be removed once what came of this one is written."""


def fit(
    config: Config,
    train_data: Any,
    valid_data: Any,
    model_class: type[Any] | None = None,
    trainer_class: type[Any] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    may_start_cold: bool = True,
) -> Fitted:
    """Build the network and train it to its best validation score.

    Args:
        train_data, valid_data: loaders from ``build_data``.
        model_class, trainer_class: by default those RecBole takes for the model's name.
        on_epoch: called after each validation with the epoch, from 0, and its score.
        may_start_cold: whether to train from random weights where those of ``warm_start`` do not fit.
    Raises:
        ConfigError: the earlier weights do not fit, and only new events are to be learnt or the start
            may not be cold; or ``resume_dir`` holds another training.
    """
    unfinished = None
    if config["resume_dir"]:
        unfinished = Unfinished(config, train_data, valid_data)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    network = (model_class or get_model(config["model"]))(config, train_data._dataset)
    network = network.to(config["device"])
    logging.getLogger().info(network)
    start = None
    if config["model"] in MODELS and config["warm_start"]:
        start = start_warm(network, train_data._dataset.item_tokens(), Path(config["warm_start"]))
        if start["cold_because"] and train_data._dataset.train_since is not None:
            raise ConfigError(
                "train_since learns what is new on top of an earlier model, but the training starts "
                f"cold: {start['cold_because']}. Leave train_since out to learn from all events"
            )
        if start["cold_because"] and not may_start_cold:
            raise ConfigError(f"the training starts cold: {start['cold_because']}")
    if config["model"] in MODELS and config["transfer_from"]:
        start = start_transferred(network, train_data._dataset, Path(config["transfer_from"]))
    trainer_class = trainer_class or get_trainer(config["MODEL_TYPE"], config["model"])
    make_folder(Path(config["checkpoint_dir"]))
    trainer = trainer_class(config, network)
    best = BestWeights(network, config["valid_metric_bigger"], on_epoch)
    untrained: Any = None
    if config["transfer_from"] and len(valid_data.dataset):
        trainer.eval_collector.data_collect(train_data)
        score, untrained = trainer._valid_epoch(valid_data)  # what it knows already may be its best
        best(-1, score)
    if unfinished is not None:
        unfinished.restore(trainer, best)
        if trainer.eval_step <= 0 or not valid_data:  # nothing is validated
            trainer.before_epoch = partial(_save_before, unfinished, trainer, best)

    def after_validation(epoch: int, score: float) -> None:
        best(epoch, score)
        if unfinished is not None:
            unfinished.save(trainer, best, epoch)

    started = time.monotonic()
    # recbole/model/sequential_recommender/sine.py turns anomaly detection on for every model.
    with torch.autograd.set_detect_anomaly(False):
        _, valid_result = trainer.fit(
            train_data, valid_data, saved=False, show_progress=config["show_progress"],
            callback_fn=after_validation,
        )  # fmt: skip
    epochs = len(trainer.train_loss_dict)
    if unfinished is not None and trainer.before_epoch is not None and epochs:
        unfinished.save(trainer, best, epochs - 1)
    _log.info("training: %d epochs, %.1f s", epochs, time.monotonic() - started)
    best.restore(n_trained=epochs)
    valid_result = untrained if best.epoch == 0 else valid_result
    return Fitted(network, trainer, dict(valid_result or {}), epochs, best.epoch, start, unfinished)


def _save_before(unfinished: Unfinished, trainer: Any, best: BestWeights, epoch: int) -> None:
    """Keep what the epoch before came to, unless it is what this try began with."""
    if epoch > trainer.start_epoch:
        unfinished.save(trainer, best, epoch - 1)
