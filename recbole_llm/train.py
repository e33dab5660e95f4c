"""Train and test a model by name through RecBole's five steps: config, data, split, model, trainer.

The steps are RecBole's; they are spelt out because ``recbole.quick_start`` loads Ray and because
two of its helpers unpickle whatever file bears the right name. Any RecBole model runs here, so a
comparison is one flag away. For LLMSeqRec the trained network is exported as an artifact.
"""

import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.data.utils import create_samplers, get_dataloader
from recbole.utils import ModelType, get_environment, get_model, init_logger, init_seed
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessException, spawn

from recbole_llm import MODELS
from recbole_llm.config_files import load_yaml
from recbole_llm.errors import ConfigError, DataError, RecboleLlmError
from recbole_llm.export import export_artifact, item_neighbors
from recbole_llm.fit import fit
from recbole_llm.options import READ_BY_TRAIN, apply_defaults, sequential_columns
from recbole_llm.run_settings import check_depth, check_run, make_folder
from recbole_llm.scoring.item_neighbors import write_neighbors

_log = logging.getLogger(__name__)
_OF_ALL_LISTS = ("itemcoverage", "shannonentropy", "giniindex")
_POLL_S = 0.5
_POLLS_AFTER_ERROR = 20


@dataclass(frozen=True)
class TrainResult:
    """What a run gives back."""

    best_valid_result: dict[str, float]
    """RecBole's metrics on the validation rows, by lower-cased name as in ``ndcg@10``."""
    test_result: dict[str, float]
    """The same on the test rows, with the weights that were best on validation."""
    epochs: int
    """Epochs trained, the patience after the best one included."""
    best_epoch: int | None
    """The epoch, from 1, whose weights were best on validation; 0 for those that a transfer started
    from, None without a validation."""
    artifact: Path | None
    """The artifact's folder; None for RecBole's own models."""
    start: dict[str, Any] | None
    """How it started, as ``start_warm`` or ``start_transferred`` tells; None from random weights."""


def train(
    model: str,
    dataset: str,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    nproc: int = 1,
    port: int | None = None,
    keep_unfinished: bool = False,
) -> TrainResult:
    """Train and test one model on one data set.

    Settings rank as in RecBole: files, then ``config_dict``, then ``--key=value`` on the command
    line. Beside RecBole's keys: ``artifact_dir`` (where the artifact goes; by default a dated folder
    in ``checkpoint_dir``), ``data_cut`` (the last day in the data, written into the artifact),
    ``resume_dir`` (a folder for what the same call goes on from, should this one be killed) and
    ``warm_start`` (an artifact's folder, to start from its weights where they fit), and with that
    ``train_since`` (only events from then on are learnt; see ``WholeSequenceDataset``); or
    ``transfer_from`` (an artifact of another data set, to start from by the items' texts).

    Args:
        nproc: processes; above 1 they share the batches, by NCCL on GPUs and by gloo on CPUs.
        port: where the processes meet on this machine; by default a free one.
        keep_unfinished: leave what stands in ``resume_dir`` after the last epoch to the caller, who has
            more to do; the same call again then evaluates and exports alone. In one process alone, as
            ``resume_dir`` is.
    Raises:
        ConfigError, DataError: before any training starts.
    """
    if nproc < 1:
        raise ConfigError(f"nproc must be at least 1, got {nproc}")
    if nproc == 1:
        return _train_process(
            model, dataset, config_file_list, config_dict, None, keep_unfinished=keep_unfinished
        )
    settings = dict(config_dict or {})
    config = build_config(model, dataset, config_file_list, settings)  # its errors are told once
    device = config["device"].type
    if device == "cuda":
        settings["gpu_id"] = _gpus(config, nproc)
    context = get_context("spawn")
    queue = context.SimpleQueue()
    address = f"tcp://localhost:{port or _free_port()}"
    arguments = (model, dataset, config_file_list, settings, nproc, device, address, queue)
    processes = spawn(_worker, arguments, nproc, join=False)  # type: ignore[no-untyped-call]
    outcomes = _collect(processes, queue)
    errors = [each for each in outcomes if isinstance(each, RecboleLlmError)]
    if errors:
        raise errors[0]
    result: TrainResult = outcomes[0]
    return result


def _gpus(config: Config, nproc: int) -> str:
    """The GPUs of the processes, as RecBole's ``gpu_id``, which makes them visible.

    Raises:
        ConfigError: fewer were named than there are processes.
    """
    if "gpu_id" not in config.external_config_dict:
        return ",".join(map(str, range(nproc)))
    named = str(config["gpu_id"])
    if len(named.split(",")) < nproc:
        raise ConfigError(
            f"gpu_id names a GPU for each of --nproc={nproc} processes, got {named!r}"
        )
    return named


def _collect(processes: Any, queue: Any) -> list[Any]:
    """What the processes tell, taken as it comes: the writer of a long message waits for its reader.

    Raises:
        ProcessException: one of them died, and none says why.
    """
    told: list[Any] = []
    try:
        n_polls = 0
        while not processes.join(timeout=_POLL_S) and n_polls < _POLLS_AFTER_ERROR:
            told += _drained(queue)
            # On GPUs the others may wait for one that has ended, and that for long.
            n_polls += any(isinstance(each, RecboleLlmError) for each in told)
        for process in processes.processes:
            process.terminate()
        told += _drained(queue)
    except ProcessException:
        told += _drained(queue)
        if not any(isinstance(each, RecboleLlmError) for each in told):
            raise
    return told


def _drained(queue: Any) -> Iterator[Any]:
    while not queue.empty():
        yield queue.get()


def _worker(
    rank: int,
    model: str,
    dataset: str,
    config_file_list: list[str] | None,
    config_dict: dict[str, Any],
    nproc: int,
    device: str,
    address: str,
    queue: Any,
) -> None:
    if device == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = config_dict["gpu_id"]  # before CUDA looks for them
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, address, world_size=nproc, rank=rank)
    try:
        outcome: Any = _train_process(model, dataset, config_file_list, config_dict, rank, nproc)
    except RecboleLlmError as error:
        outcome = error
    if rank == 0 or isinstance(outcome, RecboleLlmError):
        queue.put(outcome)
    torch.distributed.destroy_process_group()


def _train_process(
    model: str,
    dataset: str,
    config_file_list: list[str] | None,
    config_dict: dict[str, Any] | None,
    rank: int | None,
    nproc: int = 1,
    keep_unfinished: bool = False,
) -> TrainResult:
    # RecBole's chained fillna works with the pandas that is pinned here; a page of warnings hides that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
    config = build_config(model, dataset, config_file_list, config_dict)
    if rank is not None:
        _share_work(config, rank, nproc)
    init_seed(config["seed"], config["reproducibility"])
    for folder in (Path("log") / config["model"], Path(config["checkpoint_dir"])):
        make_folder(folder)
    if config["model"] in MODELS:
        make_folder(_artifact_root(config))
    init_logger(config)
    logging.getLogger().info(config)
    started = time.monotonic()
    full_dataset, loaders = build_data(config)
    check_depth(config, full_dataset.item_num)
    _log.info("data: %d rows to train on, %d items, %.1f s",
              len(loaders[0].dataset), full_dataset.item_num, time.monotonic() - started)  # fmt: skip

    fitted = fit(config, loaders[0], loaders[1])
    network: Any = fitted.network
    valid_result = fitted.valid_result
    test_result = fitted.trainer.evaluate(
        loaders[2], load_best_model=False, show_progress=config["show_progress"]
    )
    environment = get_environment(config).draw()
    logging.getLogger().info(
        f"The running environment of this training is as follows:\n{environment}"
    )
    logging.getLogger().info(f"best valid : {valid_result}")
    logging.getLogger().info(f"test result: {test_result}")
    artifact = None
    if config["decoder"] == "semantic_ids":
        _log.info("no artifact: scoring ranks by softmax, not by decoder semantic_ids")
    elif config["model"] in MODELS and config["local_rank"] == 0:
        metrics = {"valid": valid_result, "test": dict(test_result or {})}
        artifact = export_artifact(network, full_dataset, config, metrics, _artifact_root(config))
        write_neighbors(item_neighbors(network, loaders[0]._dataset), artifact.name, artifact)
    if fitted.unfinished is not None and not keep_unfinished:
        fitted.unfinished.remove()
    return TrainResult(
        valid_result, dict(test_result or {}), fitted.epochs, fitted.best_epoch, artifact,
        fitted.start,
    )  # fmt: skip


def build_config(
    model: str,
    dataset: str,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
) -> Config:
    """RecBole's config with our defaults in it, checked.

    It differs from ``Config(...)`` in five things: a sequential model loads the time; ml-100k comes
    from ``data_path`` where that holds it and from RecBole's wheel otherwise; a cross-entropy model
    gets no negative sampling unless it was asked for; progress bars are drawn on a terminal only;
    unknown keys are refused for our models.

    Raises:
        ConfigError: no such model or config file, an unknown key or a value out of range.
        DataError: no such data set.
    """
    for file in config_file_list or []:
        load_yaml(Path(file))  # RecBole's own reader tells nothing of what is wrong in it
    if Path(dataset).name != dataset or dataset == "..":
        raise ConfigError(
            f"a data set is named, got {dataset!r}; give its parent folder by --data_path=..."
        )
    try:
        get_model(model)
    except (ValueError, ModuleNotFoundError, AttributeError):
        raise ConfigError(
            f"no model named {model!r}: neither {' or '.join(MODELS)} nor one of RecBole's (names "
            "are case-sensitive, as SASRec)"
        ) from None
    config = _recbole_config(model, dataset, config_file_list, dict(config_dict or {}))
    given = config.external_config_dict
    if "show_progress" not in given:
        config["show_progress"] = sys.stderr.isatty()
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and "load_col" not in given:
        config["load_col"] = sequential_columns(config)
    own_copy = Path(given.get("data_path", "dataset/")) / dataset
    if (own_copy / f"{dataset}.inter").is_file():
        config["data_path"] = str(own_copy)
    interactions = Path(config["data_path"]) / f"{dataset}.inter"
    if not interactions.is_file():
        raise DataError(
            f"no data set {dataset!r}: expected {interactions}. Give its parent folder by "
            "--data_path=..., or use ml-100k, which RecBole carries"
        )
    if model in MODELS:
        setattr(config, READ_BY_TRAIN, True)
        apply_defaults(config)
    check_run(config)
    return config


def _recbole_config(
    model: str, dataset: str, files: list[str] | None, settings: dict[str, Any]
) -> Config:
    try:
        return Config(model, dataset, files, dict(settings))
    except (
        AttributeError, LookupError, NotImplementedError, SyntaxError, TypeError, ValueError
    ) as error:  # fmt: skip
        # RecBole checks few values by itself, and meets the others where it first uses them.
        is_negative = "should be None when the loss_type is CE" in str(error)
        if is_negative and settings.get("train_neg_sample_args", {}) is not None:
            return _recbole_config(
                model, dataset, files, {**settings, "train_neg_sample_args": None}
            )
        raise ConfigError(
            f"RecBole cannot read the settings: {type(error).__name__}: {error}; see the keys "
            "data_path, eval_args, metrics, topk, train_neg_sample_args and valid_metric"
        ) from error


def build_data(
    config: Config, dataset_class: type[Any] | None = None
) -> tuple[Any, tuple[Any, Any, Any]]:
    """The data set and its train, validation and test loaders, from the files alone.

    ``recbole.data.create_dataset`` and ``data_preparation`` would unpickle files of an earlier run.

    Args:
        dataset_class: the data set's class; by default the one RecBole takes for the model's name.
    """
    try:
        dataset = (dataset_class or _dataset_class(config))(config)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # Of pandas: a column of another type, an unbalanced quote, bytes; of RecBole: its settings.
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}, "
        raise DataError(
            f"data set {config['dataset']!r} cannot be read: {kind}{error}; see its files, and the "
            "keys load_col, unload_col, val_interval and alias_of_item_id"
        ) from error
    logging.getLogger().info(dataset)
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        raise ConfigError("knowledge-based models are not run here; use recbole.quick_start")
    parts = dataset.build()
    if not len(parts[0]):
        raise DataError(
            f"data set {config['dataset']!r} has nothing to train on: no user has two interactions "
            "left after filtering and splitting"
        )
    samplers = create_samplers(config, dataset, parts)
    train, valid, test = (
        get_dataloader(config, phase)(
            config, part, sampler, shuffle=phase == "train" and config["shuffle"]
        )
        for phase, part, sampler in zip(("train", "valid", "test"), parts, samplers, strict=True)
    )
    return dataset, (train, valid, test)


def _dataset_class(config: Config) -> type[Any]:
    import recbole.data.dataset as datasets

    name = f"{config['model']}Dataset"
    if not hasattr(datasets, name):
        name = {
            ModelType.SEQUENTIAL: "SequentialDataset",
            ModelType.KNOWLEDGE: "KnowledgeBasedDataset",
        }.get(config["MODEL_TYPE"], "Dataset")
    found: type[Any] = getattr(datasets, name)
    return found


def _share_work(config: Config, rank: int, nproc: int) -> None:
    """Tell RecBole's loaders and trainer that ``nproc`` processes share the batches."""
    is_on_gpu = config["device"].type == "cuda"
    if config["model"] not in MODELS and not is_on_gpu:
        raise ConfigError(
            f"--nproc={nproc} on CPUs works for {' and '.join(MODELS)} alone: RecBole's own trainer "
            "is for CUDA devices. Run this model with --nproc=1"
        )
    if of_all := [name for name in config["metrics"] if name.lower() in _OF_ALL_LISTS]:
        raise ConfigError(
            f"metrics {of_all}: with --nproc={nproc} each process measures its users, and these are no "
            "means over users; leave them out"
        )
    config["single_spec"] = False
    config["local_rank"] = rank
    config["world_size"] = config["nproc"] = nproc
    if is_on_gpu:
        config["device"] = torch.device("cuda", rank)
    if rank != 0:
        config["state"] = "error"
        config["show_progress"] = False


def _artifact_root(config: Config) -> Path:
    if config["artifact_dir"]:
        return Path(config["artifact_dir"])
    return Path(config["checkpoint_dir"]) / f"{config['model']}-{config['dataset']}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
