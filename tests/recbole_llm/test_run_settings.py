"""RecBole's own settings are refused before any training, where RecBole would meet them late."""

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import ConfigError
from recbole_llm.train import build_config, build_data, train
from tests.data import write_atomic, write_cycle


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": 2.5}, "epochs must be at least 0 .int., got 2.5"),
        ({"epochs": "abc"}, "epochs must be at least 0 .int., got 'abc'"),
        ({"eval_step": -1}, "eval_step must be at least 0"),
        ({"stopping_step": "x"}, "stopping_step must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"train_batch_size": 0}, "train_batch_size must be at least 1"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1"),
        ({"learning_rate": "abc"}, "learning_rate must be at least 0 .float., got 'abc'"),
        ({"learning_rate": float("inf")}, "learning_rate must be at least 0 .float., got inf"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"enable_amp": "yes"}, "enable_amp must be True or False"),
        ({"learner": "adamm"}, "learner must be one of adam, .* got 'adamm'"),
        ({"clip_grad_norm": 5}, "clip_grad_norm must be ~ or hold .*'max_norm': 5.* got 5"),
        (
            {"clip_grad_norm": {"max_norm": 5}, "enable_scaler": True},
            "clip gradients that enable_scaler has scaled",
        ),
        ({"valid_metric": "NDCG@20"}, "valid_metric must be .*recall@10, .* got 'NDCG@20'"),
        ({"metrics": ["Recall"], "topk": [5]}, "topk measure, recall@5; got 'MRR@10'"),
        ({"eval_args": {"order": "RO"}}, "eval_args.order of a sequential model must be TO"),
        ({"eval_args": {"splt": {"RS": [8, 1, 1]}}}, "eval_args must hold of .*, got 'splt'"),
        ({"eval_args": {"group_by": "item_id"}}, "group_by must be user or ~, got 'item_id'"),
        ({"eval_args": {"split": {"XX": 1}}}, "must be one of RS, LS and TS, as .* got .'XX': 1."),
        ({"eval_args": {"split": {"RS": [8, 2]}}}, r"RS must be three ratios .* got \[8, 2\]"),
        ({"eval_args": {"split": {"RS": [0, 0, 0]}}}, "RS must be three ratios"),
        ({"eval_args": {"split": {"RS": ["a", "b", "c"]}}}, "RS must be three ratios"),
        ({"eval_args": {"split": {"LS": "foo"}}}, "LS must be one of .*valid_only.* got 'foo'"),
        ({"val_interval": "foo"}, "val_interval must be ~ or hold what of which field, got 'foo'"),
    ],
)
@pytest.mark.parametrize("model", ["LLMSeqRec", "SASRec"])
def test_what_recbole_would_meet_late(
    tmp_path: Path, settings: dict[str, Any], told: str, model: str
) -> None:
    write_cycle(tmp_path)
    given = {"data_path": str(tmp_path), "valid_metric": "MRR@10", "topk": [10], **settings}
    with pytest.raises(ConfigError, match=told):
        build_config(model, "cycle", None, given)


@pytest.mark.parametrize("valid_metric", ["GAUC", "NDCG@10"])
def test_all_of_recboles_metrics_of_lists(tmp_path: Path, valid_metric: str) -> None:
    write_cycle(tmp_path)
    names = ["NDCG", "GAUC", "ItemCoverage", "AveragePopularity", "GiniIndex", "TailPercentage"]
    given: dict[str, Any] = {
        "data_path": str(tmp_path), "checkpoint_dir": str(tmp_path), "item_repr": "id", "epochs": 1,
        "metrics": [*names, "ShannonEntropy"], "topk": [10], "valid_metric": valid_metric,
    }  # fmt: skip
    found = train("LLMSeqRec", "cycle", None, given).test_result
    assert {"gauc", "ndcg@10", *(f"{name.lower()}@10" for name in names[2:])} <= found.keys()
    assert 0 < found["itemcoverage@10"] <= 1
    json.dumps(found)
    with pytest.raises(ConfigError, match="RecBole 1.2.1 cannot collect what some of them need"):
        build_config("SASRec", "cycle", None, given)


@pytest.mark.parametrize("key", ["temperature", "layer_norm_eps", "replay_share"])
def test_no_number_of_ours_is_infinite(tmp_path: Path, key: str) -> None:
    write_cycle(tmp_path)
    given = {"data_path": str(tmp_path), "item_repr": "id", key: float("inf")}
    with pytest.raises(ConfigError, match=f"{key} must be .* got inf"):
        build_data(build_config("LLMSeqRec", "cycle", None, given))


def test_lists_longer_than_the_catalogue(tmp_path: Path) -> None:
    write_atomic(tmp_path, "few", {f"u{n}": list("abca") for n in range(3)}, {})
    with pytest.raises(ConfigError, match="lists of 10 items, and data set 'few' has 3"):
        train("SASRec", "few", None, {"data_path": str(tmp_path)})


@pytest.mark.parametrize("key", ["artifact_dir", "checkpoint_dir"])
def test_a_folder_of_outputs_that_cannot_be(tmp_path: Path, key: str) -> None:
    write_cycle(tmp_path)
    (tmp_path / "file").touch()
    given = {"data_path": str(tmp_path), "item_repr": "id", key: str(tmp_path / "file" / "x")}
    with pytest.raises(ConfigError, match="file/x cannot be made: Not a directory"):
        train("LLMSeqRec", "cycle", None, given)
