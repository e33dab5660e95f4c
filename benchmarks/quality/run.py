"""One model on one data set with one seed, in RecBole's data and evaluation loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality.models import Entry

TOP = 10
PROTOCOL = {
    "eval_args": {
        "split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full",
    },
    "metrics": ["Recall", "MRR", "NDCG"], "topk": [TOP], "valid_metric": f"NDCG@{TOP}",
    "metric_decimal_place": 6, "show_progress": False, "state": "WARNING",
    "eval_batch_size": 2048 if torch.cuda.is_available() else 256,
}  # fmt: skip
"""Leave-one-out by time, the whole catalogue ranked, history not masked: RecBole's own."""


@dataclass(frozen=True)
class Outcome:
    """What a run gives."""

    valid: dict[str, float]
    test: dict[str, float]
    masked_test: dict[str, float]
    """The same with the items of each user's history out of the ranking."""
    ranks: NDArray[np.uint8]
    """(N,) rank of each test user's item from 1; 0 below the tenth. Users in the order of ``users``."""
    masked_ranks: NDArray[np.uint8]
    ranks_by_bias: dict[float, NDArray[np.uint8]]
    """``ranks`` as they would be at other values of ``new_item_bias``."""
    users: list[str]
    """The test rows' users: by their first event's time, as RecBole splits them."""
    epochs: int
    seconds: float
    """Data, encoding, training and evaluation."""
    parameters: int
    test_by_matrix: dict[str, dict[str, float]] = field(default_factory=dict)
    """``test`` as it would be of an artifact that stores its item matrix otherwise."""
    blend: dict[str, Any] | None = None
    """Sources, weights and fusion, where several sources were blended."""
    model_ranks: NDArray[np.uint8] | None = None
    """``ranks`` of a blend's model alone, of the same weights."""


def run(
    entry: Entry,
    dataset: str,
    data_path: str | None,
    seed: int,
    settings: dict[str, Any],
    stopping_users: set[str] | None = None,
    new_item_biases: Sequence[float] = (),
    matrices: Sequence[str] = (),
    on_epoch: Callable[[int, float], None] | None = None,
    training_users: set[str] | None = None,
) -> Outcome:
    """Train by early stopping on validation, then test the weights that were best there.

    Args:
        entry: the model.
        settings: RecBole keys on top of the entry's own; with ``artifact_dir`` LLMSeqRec leaves its
            artifact there, and with ``resume_dir`` goes on where a run that was killed had come to.
        stopping_users: whose validation rows decide when to stop; by default everyone's.
        new_item_biases: values at which LLMSeqRec ranks the test rows once more each.
        matrices: ways to store an item matrix, by which LLMSeqRec ranks the test rows once more each.
        on_epoch: called after each validation with the epoch, from 0, and its score.
        training_users: whose events are trained on; by default everyone's.
    Raises:
        ConfigError: ``warm_start`` names a network that does not fit.
    """
    from recbole_llm.export import export_artifact
    from recbole_llm.fit import fit
    from recbole_llm.train import build_config, build_data

    started = time.monotonic()
    given = {**PROTOCOL, **entry.settings, **settings, "seed": seed}
    if data_path:
        given["data_path"] = data_path
    config = build_config(entry.model, dataset, entry.config_files, given)
    data, (train_data, valid_data, test_data) = build_data(config, entry.dataset_class())
    if training_users is not None:
        train_data = _training_rows_of(train_data, training_users)
    if stopping_users is not None:
        valid_data = _rows_of(valid_data, stopping_users)
    fitted = fit(
        config, train_data, valid_data, entry.network_class(), on_epoch=on_epoch,
        may_start_cold=False,
    )  # fmt: skip
    if config["artifact_dir"]:
        metrics = {"valid": fitted.valid_result}
        export_artifact(
            fitted.network, train_data._dataset, config, metrics, Path(config["artifact_dir"])
        )
    keeper = _RankKeeper(fitted.trainer.evaluator)
    fitted.trainer.evaluator = keeper
    valid, blend, model_ranks = fitted.valid_result, None, None
    if choose := getattr(fitted.network, "choose_blend", None):
        fitted.trainer.evaluate(test_data, load_best_model=False)
        model_ranks = keeper.ranks
        blend = choose(valid_data)
        valid = dict(fitted.trainer.evaluate(valid_data, load_best_model=False))
    test = fitted.trainer.evaluate(test_data, load_best_model=False)
    ranks = keeper.ranks
    ranks_by_bias = {}
    for bias in new_item_biases:
        with _new_item_bias(fitted.network, bias):
            fitted.trainer.evaluate(test_data, load_best_model=False)
        ranks_by_bias[bias] = keeper.ranks
    test_by_matrix = {}
    for stored in matrices:
        with _stored_matrix(fitted.network, stored):
            found = fitted.trainer.evaluate(test_data, load_best_model=False)
        test_by_matrix[stored] = dict(found)
    _mask_history(fitted.network)
    masked_test = fitted.trainer.evaluate(test_data, load_best_model=False)
    seconds = time.monotonic() - started
    if fitted.unfinished is not None:
        seconds += fitted.unfinished.seconds_before
        fitted.unfinished.remove()
    return Outcome(
        valid=valid,
        test=dict(test),
        masked_test=dict(masked_test),
        ranks=ranks,
        masked_ranks=keeper.ranks,
        ranks_by_bias=ranks_by_bias,
        users=data.id2token(data.uid_field, test_data.dataset.inter_feat[data.uid_field]).tolist(),
        epochs=fitted.epochs,
        seconds=seconds,
        parameters=sum(p.numel() for p in fitted.network.parameters() if p.requires_grad),
        test_by_matrix=test_by_matrix,
        blend=blend,
        model_ranks=model_ranks,
    )


def _rows_of(loader: Any, users: set[str]) -> Any:
    """The same loader over the rows of some users."""
    data = loader._dataset
    some = _of_users(data, data.inter_feat, users)
    return type(loader)(loader.config, data.copy(some), loader._sampler)


def _training_rows_of(loader: Any, users: set[str]) -> Any:
    """The same for training on whole sequences, whose counts of items are of those users too."""
    data = loader._dataset
    some = data.copy(_of_users(data, data.inter_feat, users))
    some._split_rows = _of_users(data, data._split_rows, users)
    return type(loader)(loader.config, some, loader._sampler, shuffle=True)


def _of_users(data: Any, rows: Any, users: set[str]) -> Any:
    names = data.id2token(data.uid_field, rows[data.uid_field])
    return rows[torch.tensor([name in users for name in names])]


@contextmanager
def _new_item_bias(network: Any, bias: float) -> Iterator[None]:
    from recbole_llm.catalogue import item_bias

    trained_with = network.item_bias
    network.item_bias = item_bias(network.is_known, network.text_vectors, bias)
    try:
        yield
    finally:
        network.item_bias = trained_with


@contextmanager
def _stored_matrix(network: Any, stored: str) -> Iterator[None]:
    """Let a network read and rank by its item vectors as an artifact would give them back."""
    from recbole_llm.scoring.matrix import pack_matrix, unpack_matrix

    with torch.no_grad():
        plain = network.eval().item_matrix()
    read = unpack_matrix(pack_matrix(plain, stored), stored, plain.shape[1]).to(plain.device)
    network.item_matrix = lambda: read
    try:
        yield
    finally:
        del network.item_matrix


def _mask_history(network: Any) -> None:
    """Let a network rank nothing that the sequence it reads holds."""
    plain = network.full_sort_predict

    def masked(interaction: Any) -> Any:
        return plain(interaction).scatter(1, interaction[network.ITEM_SEQ], -np.inf)

    network.full_sort_predict = masked


class _RankKeeper:
    """Stands before RecBole's evaluator and keeps each user's rank, for intervals over users."""

    def __init__(self, evaluator: Any) -> None:
        self._evaluator = evaluator
        self.ranks = np.zeros(0, np.uint8)

    def evaluate(self, collected: Any) -> Any:
        is_hit = collected.get("rec.topk")[:, :TOP].numpy().astype(bool)  # (N, 10)
        self.ranks = np.where(is_hit.any(1), is_hit.argmax(1) + 1, 0).astype(np.uint8)
        return self._evaluator.evaluate(collected)
