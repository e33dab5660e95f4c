from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessException, spawn

from recbole_llm.errors import ConfigError, DataError, TrainingError
from recbole_llm.scoring import load_artifact
from recbole_llm.train import _collect, _gpus, _share_work, build_config, build_data, train
from tests.data import write_cycle

_SMALL: dict[str, Any] = {
    "item_repr": "id", "hidden_size": 16, "n_layers": 1, "inner_size": 16, "epochs": 12,
    "learning_rate": 0.02, "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 16,
}  # fmt: skip


@pytest.mark.slow
def test_two_processes_learn_as_one_does(tmp_path: Path, tiny_encoders: dict[str, Path]) -> None:
    """With adapters on the encoder, which each feeds with its own batches' items."""
    write_cycle(tmp_path)
    settings = {
        **_SMALL, "item_repr": "id+text", "encoder": str(tiny_encoders["bert"]),
        "encoder.finetune": "lora", "encoder.items_per_step": 8, "encoder.learning_rate": 0.002,
        "text_cache": str(tmp_path / "cache.sqlite"), "data_path": str(tmp_path),
        "artifact_dir": str(tmp_path / "artifacts"),
    }  # fmt: skip
    result = train("LLMSeqRec", "cycle", None, settings, nproc=2)
    assert result.test_result["mrr@10"] > 0.8
    assert result.artifact is not None
    assert load_artifact(result.artifact).metadata["metrics"]["test"] == result.test_result
    assert (result.artifact / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_bad_setting_in_two_processes_is_told_once(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    with pytest.raises(ConfigError, match="n_heads"):
        train("LLMSeqRec", "cycle", None, {"data_path": str(tmp_path), "n_heads": 0}, nproc=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is told on CPUs alone")
def test_a_model_of_recboles_own_does_not_share_cpus(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    config = build_config("SASRec", "cycle", None, {"data_path": str(tmp_path)})
    with pytest.raises(ConfigError, match="on CPUs works for LLMSeqRec and LinearSeqRec alone"):
        _share_work(config, rank=0, nproc=2)


def test_figures_that_processes_cannot_average_are_told(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    given = {"data_path": str(tmp_path), "metrics": ["NDCG", "ItemCoverage"]}
    with pytest.raises(
        ConfigError, match=r"metrics \['ItemCoverage'\]: with --nproc=2 each process"
    ):
        _share_work(build_config("LLMSeqRec", "cycle", None, given), rank=0, nproc=2)


def test_recbole_finds_every_folder_that_processes_might_make_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cycle(tmp_path)
    found = {}
    for module in ("recbole.utils.logger", "recbole.trainer.trainer"):
        monkeypatch.setattr(
            f"{module}.ensure_dir", lambda path: found.setdefault(str(path), Path(path).is_dir())
        )
    settings = {**_SMALL, "epochs": 1, "data_path": str(tmp_path), "checkpoint_dir": "kept/here"}
    train("LLMSeqRec", "cycle", None, settings)
    assert found == {"./log": True, "./log/LLMSeqRec": True, "kept/here": True}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec"])
def test_recboles_own_models_run_by_the_same_call(tmp_path: Path, model: str) -> None:
    write_cycle(tmp_path)
    settings = {
        "data_path": str(tmp_path), "MAX_ITEM_LIST_LENGTH": 5, "hidden_size": 16,
        "inner_size": 16, "epochs": 3,
    }  # fmt: skip
    result = train(model, "cycle", None, settings)
    assert set(result.test_result) == {"recall@10", "mrr@10", "ndcg@10", "hit@10", "precision@10"}
    assert result.artifact is None
    assert not (tmp_path / "saved").exists() or not list((tmp_path / "saved").iterdir())


def test_ml_100k_comes_from_recboles_wheel_or_from_data_path(tmp_path: Path) -> None:
    assert build_config("LLMSeqRec", "ml-100k")["data_path"].endswith("dataset_example/ml-100k")
    own = write_cycle(tmp_path, "ml-100k")
    config = build_config("LLMSeqRec", "ml-100k", None, {"data_path": str(tmp_path)})
    assert config["data_path"] == str(own)


def test_saved_pickles_are_not_read(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    (tmp_path / "saved").mkdir()
    marker = tmp_path / "ran"
    for name in ("cycle-LLMSeqRecDataset.pth", "cycle-for-LLMSeqRec-dataloader.pth"):
        planted = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
        (tmp_path / "saved" / name).write_bytes(planted)
    build_data(build_config("LLMSeqRec", "cycle", None, {**_SMALL, "data_path": str(tmp_path)}))
    assert not marker.exists()


def test_bad_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model named .SasRec.: neither LLMSeqRec or Linear"):
        build_config("SasRec", "ml-100k")
    with pytest.raises(DataError, match=r"no data set 'nope': expected .*nope/nope.inter"):
        build_config("LLMSeqRec", "nope", None, {"data_path": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"no config file at missing.yaml"):
        build_config("LLMSeqRec", "ml-100k", ["missing.yaml"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["u\ta\tyesterday", "u\tb\t2"],
            "cannot be read: Unable to convert column timestamp:float",
        ),
        (['u\t"a\t1', "u\tb\t2"], "data set 'bad' cannot be read"),
        (["u\ta\t1", "v\tb\t2"], "nothing to train on: no user has two interactions"),
    ],
)
def test_bad_interactions(tmp_path: Path, lines: list[str], message: str) -> None:
    folder = write_cycle(tmp_path, "bad")
    head = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "bad.inter").write_text("\n".join([head, *lines]) + "\n")
    with pytest.raises(DataError, match=message):
        train("LLMSeqRec", "bad", None, {**_SMALL, "data_path": str(tmp_path)})
    with pytest.raises(ConfigError, match="nproc must be at least 1, got 0"):
        train("LLMSeqRec", "bad", None, {"data_path": str(tmp_path)}, nproc=0)


def test_an_encoder_that_is_not_there_stops_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_cycle(tmp_path)
    settings = {**_SMALL, "data_path": str(tmp_path), "item_repr": "text", "encoder": "no/model"}
    with pytest.raises(ConfigError, match="encoder 'no/model' not found"):
        train("LLMSeqRec", "cycle", None, settings)


def _tell(rank: int, told: tuple[str | None, str | None], queue: Any) -> None:
    if (words := told[rank]) is None:
        raise RuntimeError("the connection was closed by a peer")
    queue.put(TrainingError(words))


@pytest.mark.slow
@pytest.mark.parametrize("told", [(None, "why"), ("w" * (1 << 18), "why")])
def test_what_one_process_tells_is_heard(told: tuple[str | None, str | None]) -> None:
    """Also where another died of it, and where it is long."""
    queue = get_context("spawn").SimpleQueue()
    processes = spawn(_tell, (told, queue), 2, join=False)  # type: ignore[no-untyped-call]
    heard = {str(error) for error in _collect(processes, queue)}
    assert heard == {words for words in told if words is not None}


@pytest.mark.slow
def test_a_process_that_dies_in_silence_is_an_error() -> None:
    queue = get_context("spawn").SimpleQueue()
    processes = spawn(_tell, ((None, None), queue), 2, join=False)  # type: ignore[no-untyped-call]
    with pytest.raises(ProcessException, match="closed by a peer"):
        _collect(processes, queue)


def test_each_process_has_a_gpu(tmp_path: Path) -> None:
    write_cycle(tmp_path)

    def gpus(**given: Any) -> str:
        return _gpus(
            build_config("SASRec", "cycle", None, {"data_path": str(tmp_path), **given}), 2
        )

    assert gpus() == "0,1"
    assert gpus(gpu_id="2,5") == "2,5"
    with pytest.raises(ConfigError, match="a GPU for each of --nproc=2 processes, got '3'"):
        gpus(gpu_id=3)
