"""Let a training that was killed go on to the weights that it would have come to.

After each validation, or each epoch where none is validated, all that the next one depends on is put
into one file: weights, optimiser, counters, random numbers, and the weights that were best so far. A
training that is started again with the same settings and data goes on from there, and takes the file
away once it has ended.
"""

import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from torch import Tensor

from recbole_llm import MODELS
from recbole_llm.best_weights import BestWeights
from recbole_llm.encoder import encoder_names, find_encoder, fingerprint, locate_weights
from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.json_files import check_record, differences
from recbole_llm.options import ModelOptions
from recbole_llm.run_settings import make_folder
from recbole_llm.tfidf import NAME as TFIDF
from recbole_llm.trainer import LLMSeqRecTrainer, read_checkpoint, write_checkpoint

_NAME = "unfinished.safetensors"
_BEST, _CPU, _SHUFFLE, _CUDA = "best.", "random.cpu", "random.shuffle", "random.cuda"
_NOT_LEARNT_FROM = {
    "resume_dir", "checkpoint_dir", "artifact_dir", "data_path", "text_cache", "config_files",
    "show_progress", "state", "gpu_id", "nproc", "ip", "port", "log_wandb", "wandb_project",
}  # fmt: skip
"""Settings that may change between two tries."""
_KINDS = {
    "about": dict, "losses": list, "best": dict, "best_valid_result": dict | None,
    "seconds": int | float,
}  # fmt: skip
_BEST_KINDS = {"score": int | float, "epoch": int | None, "n_validations": int}


class Unfinished:
    """What a training leaves for the next try, in one file of a folder.

    Args:
        config: RecBole's; ``resume_dir`` names the folder, which is made if it is not there.
        train_data, valid_data: loaders from ``build_data``.
    Raises:
        ConfigError: such a training cannot be gone on with.
    """

    def __init__(self, config: Config, train_data: Any, valid_data: Any) -> None:
        _refuse_what_cannot_go_on(config)
        self._path = Path(config["resume_dir"]) / _NAME
        make_folder(self._path.parent)
        self._shuffle: torch.Generator = train_data.generator
        given = {
            key: value
            for key, value in config.external_config_dict.items()
            if key not in _NOT_LEARNT_FROM
        }
        self._about: dict[str, Any] = {
            **json.loads(json.dumps(given, default=str)),  # YAML has dates
            **{key: config[key] for key in ("model", "dataset", "seed")},
            "recbole_llm": version("recbole_llm"),
            "data": _digest(train_data._dataset, valid_data._dataset),
            "encoders": _fingerprints(train_data._dataset.options),
        }
        self._started = time.monotonic()
        self.seconds_before = 0.0
        """What the tries before took, up to their last validation."""

    def restore(self, trainer: LLMSeqRecTrainer, best: BestWeights) -> None:
        """Put the last try's state into a trainer and what it knows of its best; nothing without one.

        Raises:
            ConfigError: it is of a training with other settings or data.
            ArtifactError: the file is damaged.
        """
        if not self._path.is_file():
            return
        tensors, told = read_checkpoint(str(self._path))
        check_record(told, _KINDS, self._path, remedy="remove it to train anew")
        if differing := differences(told["about"], self._about):
            raise ConfigError(
                f"{self._path} is of another training: {differing}. Remove it to train anew, or name "
                "another resume_dir"
            )
        trainer.go_on(tensors, told, str(self._path))
        trainer.train_loss_dict = dict(enumerate(told["losses"]))
        trainer.best_valid_result = told["best_valid_result"]
        if told["cur_step"] > trainer.stopping_step:
            trainer.start_epoch = trainer.epochs  # it was killed when its last epoch was over
        weights = {k.removeprefix(_BEST): v for k, v in tensors.items() if k.startswith(_BEST)}
        if weights and _shapes(weights) != _shapes(trainer.model.state_dict()):
            raise ArtifactError(
                f"the best weights in {self._path} are of another model; remove it to train anew"
            )
        best.load_state(weights, check_record(told["best"], _BEST_KINDS, self._path))
        try:
            torch.set_rng_state(tensors[_CPU])
            self._shuffle.set_state(tensors[_SHUFFLE])
            if trainer.device.type == "cuda":
                torch.cuda.set_rng_state(tensors[_CUDA], trainer.device)
        except (KeyError, RuntimeError, TypeError) as error:
            raise ArtifactError(
                f"the random numbers in {self._path} cannot be gone on with: {error}; remove it to "
                "train anew"
            ) from None
        self.seconds_before = float(told["seconds"])

    def save(self, trainer: LLMSeqRecTrainer, best: BestWeights, epoch: int) -> None:
        """Write the file anew, in one step.

        Args:
            epoch: from 0, trained and validated.
        """
        tensors, told = trainer.checkpoint(epoch)
        weights, about_best = best.state()
        tensors |= {_BEST + name: value for name, value in weights.items()}
        tensors |= {_CPU: torch.get_rng_state(), _SHUFFLE: self._shuffle.get_state()}
        if trainer.device.type == "cuda":
            tensors[_CUDA] = torch.cuda.get_rng_state(trainer.device)
        told |= {
            "about": self._about,
            "losses": [trainer.train_loss_dict[number] for number in range(epoch + 1)],
            "best_valid_result": trainer.best_valid_result and dict(trainer.best_valid_result),
            "best": about_best,
            "seconds": self.seconds_before + time.monotonic() - self._started,
        }  # fmt: skip
        write_checkpoint(self._path, tensors, told)

    def remove(self) -> None:
        """Take the file away: what came of the training is written."""
        self._path.unlink(missing_ok=True)


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}


def _refuse_what_cannot_go_on(config: Config) -> None:
    model = config["model"]
    reasons = {
        f"model {model} (its checkpoints are RecBole's pickles)": model not in MODELS,
        "privacy.epsilon (all noise is released in one go)": config["privacy.epsilon"] is not None,
        "nproc above 1 (each process has random numbers of its own)": not config["single_spec"],
    }
    if given := [reason for reason, is_so in reasons.items() if is_so]:
        raise ConfigError(f"resume_dir does not go with {', '.join(given)}: leave it out")


def _fingerprints(options: ModelOptions) -> list[str]:
    """Of the networks that read items, which no checkpoint holds."""
    texts = encoder_names(options.encoder) if options.uses_text else []
    names = [*texts, *(modality.encoder for modality in options.media)]
    specs = [find_encoder(name) for name in names if name != TFIDF]
    return [fingerprint(locate_weights(spec), spec) for spec in specs]


def _digest(train: Any, valid: Any) -> str:
    """Hash of the items, their texts, and who is to learn and to say what from which."""
    found = hashlib.sha256(json.dumps([train.item_tokens(), train.item_texts()]).encode())
    for data in (train, valid):
        for part in (*data.training_pairs(), *data.disliked()):
            found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()[:12]
