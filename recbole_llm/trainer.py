"""RecBole's trainer with checkpoints that hold no pickle, and two processes on CPUs too.

RecBole pickles its whole ``Config`` into a checkpoint and reads it back by ``torch.load``, which
torch 2.6 and newer refuse and which would run a planted file. Here a checkpoint is one safetensors
file: weights and optimiser state as tensors, the counters as JSON in its header.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.evaluator import Collector
from recbole.trainer import Trainer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.json_files import check_record, is_list_of, parse_json
from recbole_llm.private_training import PrivateSteps

_MODEL, _OPTIMIZER = "model.", "optimizer."
_COUNTERS = {
    "epoch": int, "cur_step": int, "best_valid_score": int | float, "param_groups": list
}  # fmt: skip


class _Collector(Collector):  # type: ignore[misc]
    """RecBole's, which takes the numbers that some metrics need of the training rows for tensors."""

    def get_data_struct(self) -> Any:
        """What was collected since the last time."""
        collected = self.data_struct._data_dict
        numbers = {
            name: collected.pop(name)
            for name in list(collected)
            if not isinstance(collected[name], Tensor)
        }
        found = super().get_data_struct()
        collected.update(numbers)
        found._data_dict.update(numbers)
        return found


class LLMSeqRecTrainer(Trainer):  # type: ignore[misc]
    """RecBole's ``Trainer``; how it stores, loads and distributes differs, and what it takes for half
    precision and for figures."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        single_spec = config["single_spec"]
        # The parent wraps the model for one CUDA device a process; do that here, for CPUs as well.
        config["single_spec"] = True
        super().__init__(config, model)
        config["single_spec"] = single_spec
        if not single_spec:
            devices = [config["local_rank"]] if self.device.type == "cuda" else None
            # Every process makes its buffers, the texts' vectors among them, from the same files.
            self.distributed_model = DistributedDataParallel(
                self.model, device_ids=devices, broadcast_buffers=False
            )
        path = Path(str(self.saved_model_file)).with_suffix(".safetensors")
        self.saved_model_file: str = str(path)
        self.eval_collector = _Collector(config)
        self._private: PrivateSteps | None = None
        self.before_epoch: Callable[[int], None] | None = None
        """Called with each epoch's number, from 0, before it is trained."""

    def fit(self, train_data: Any, valid_data: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as RecBole does; privately, to the last epoch, and validate what came of it."""
        noise = getattr(train_data._dataset, "noise", None)
        if noise is None:
            return super().fit(train_data, valid_data, *args, **kwargs)
        self.logger.info(f"private: {noise}")
        self._private = PrivateSteps(self.model, self.optimizer, train_data._dataset, noise)
        super().fit(train_data, None, *args, **kwargs)
        if valid_data:
            self.best_valid_result = self.evaluate(valid_data, load_best_model=False)
            self.best_valid_score = self.best_valid_result[self.valid_metric]
        return self.best_valid_score, self.best_valid_result

    def _build_optimizer(self, **kwargs: Any) -> Any:
        groups = getattr(self.model, "parameter_groups", None)
        return super()._build_optimizer(**({"params": groups()} if groups else {}), **kwargs)

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        *args: Any,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        if self.before_epoch is not None:
            self.before_epoch(epoch_idx)
        # recbole/model/sequential_recommender/sine.py turns anomaly detection on for the whole
        # process when it is imported; it checks every gradient and costs a fifth of an epoch.
        with torch.autograd.set_detect_anomaly(False), self._half_precision():
            if self._private is not None:
                return self._private.epoch(epoch_idx, show_progress)
            loss = super()._train_epoch(
                train_data, epoch_idx, *args, show_progress=show_progress, **kwargs
            )
            if end_epoch := getattr(self.model, "end_epoch", None):
                end_epoch(epoch_idx)
            return loss

    @contextmanager
    def _half_precision(self) -> Iterator[None]:
        """``enable_amp`` is bfloat16 on GPUs as on CPUs. Float16, torch's own choice there, loses weak
        gradients and is for ``enable_scaler`` alone."""
        kind = self.device.type
        before = torch.get_autocast_dtype(kind)
        if not self.enable_scaler:
            torch.set_autocast_dtype(kind, torch.bfloat16)
        try:
            yield
        finally:
            torch.set_autocast_dtype(kind, before)

    def checkpoint(self, epoch: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What ``go_on`` takes: weights and the optimiser's state, and the counters as JSON types.

        Args:
            epoch: from 0, the last that was trained.
        """
        tensors = {_MODEL + name: value for name, value in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        for index, state in optimizer["state"].items():
            for name, value in state.items():
                tensors[f"{_OPTIMIZER}{index}.{name}"] = torch.as_tensor(value)
        return tensors, {
            "model": self.config["model"],
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": self.best_valid_score,
            "param_groups": optimizer["param_groups"],
        }

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write weights, optimiser and counters; only the first process writes."""
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        write_checkpoint(Path(path), *self.checkpoint(epoch))
        if verbose:
            self.logger.info(f"Saving current: {path}")

    def resume_checkpoint(self, resume_file: str) -> None:
        """Go on from a checkpoint of this class: weights, optimiser, epoch and best score.

        Raises:
            ConfigError: of a private training, which releases all its noise in one go.
            ArtifactError: the file is damaged, or of another model.
        """
        if self.config["privacy.epsilon"] is not None:
            raise ConfigError("a private training cannot be gone on with: train anew")
        self.saved_model_file = str(resume_file)
        self.go_on(*read_checkpoint(self.saved_model_file), self.saved_model_file)

    def go_on(self, tensors: dict[str, Tensor], counters: dict[str, Any], source: str) -> None:
        """Take a checkpoint's weights, optimiser, epoch and best score.

        Args:
            source: its file, for messages.
        Raises:
            ArtifactError: it is of another model.
        """
        self._load_weights(tensors)
        state: dict[int, dict[str, Tensor]] = {}
        try:
            for name, value in tensors.items():
                if name.startswith(_OPTIMIZER):
                    index, field = name.removeprefix(_OPTIMIZER).split(".", 1)
                    state.setdefault(int(index), {})[field] = value
            groups = counters["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"the optimiser's state in {source} does not fit: {error}; train anew"
            ) from None
        self.start_epoch = counters["epoch"] + 1
        self.cur_step = counters["cur_step"]
        self.best_valid_score = counters["best_valid_score"]
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Evaluate as RecBole does, on the best checkpoint when ``load_best_model``."""
        if eval_data and load_best_model:
            if not self.config["single_spec"]:
                torch.distributed.barrier()  # the first process may still be writing
            path = model_file or self.saved_model_file
            if not self.config["single_spec"]:  # each process names its file by its own clock
                paths = [path]
                torch.distributed.broadcast_object_list(paths, src=0)
                path = paths[0]
            self._load_weights(read_checkpoint(path)[0])
            self.logger.info(f"Loading model structure and parameters from {path}")
        result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        if result:  # some metrics give numbers of numpy's, which JSON cannot hold
            result.update({name: float(value) for name, value in result.items()})
        return result

    def _load_weights(self, tensors: dict[str, Tensor]) -> None:
        weights = {k.removeprefix(_MODEL): v for k, v in tensors.items() if k.startswith(_MODEL)}
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise ArtifactError(f"the checkpoint is of another model: {error}") from None


def write_checkpoint(path: Path, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
    """Write a checkpoint in one step: a reader finds the one before or this one, never a part."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    staging = path.with_name(f".{path.name}.staging")
    save_file(tensors, staging, metadata={"counters": json.dumps(counters)})
    staging.replace(path)


def read_checkpoint(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and counters of a checkpoint of this class.

    Raises:
        ArtifactError: the file is something else, or damaged.
    """
    if Path(path).suffix != ".safetensors":
        raise ArtifactError(
            f"{path} is not a checkpoint of LLMSeqRec: expected a .safetensors file. Pickled "
            "checkpoints are not loaded"
        )
    try:
        with safe_open(path, framework="pt") as file:
            counters = parse_json((file.metadata() or {}).get("counters", ""))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"checkpoint {path} cannot be read: {error}; train anew") from None
    check_record(counters, _COUNTERS, f"checkpoint {path}", remedy="train anew")
    if not is_list_of(dict, counters["param_groups"]):
        raise ArtifactError(f"checkpoint {path} has no groups of parameters; train anew")
    return tensors, counters
