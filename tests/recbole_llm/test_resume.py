"""A training that is killed and started again comes to the weights of one that was not."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.model import LLMSeqRec
from recbole_llm.train import TrainResult, train
from recbole_llm.trainer import LLMSeqRecTrainer
from tests.data import write_cycle
from tests.kill import killed_after

_FILE = "unfinished.safetensors"
_SMALL = {
    "hidden_size": 8, "inner_size": 8, "n_layers": 1, "train_batch_size": 16, "epochs": 6,
    "stopping_step": 2, "learning_rate": 0.01, "item_repr": "id+text", "encoder": "tfidf",
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    write_cycle(tmp_path)
    return {
        **_SMALL, "data_path": str(tmp_path), "text_cache": str(tmp_path / "cache.sqlite"),
        "checkpoint_dir": str(tmp_path / "saved"), "resume_dir": str(tmp_path / "resume"),
    }  # fmt: skip


def _train_killed(settings: dict[str, Any], epoch: int) -> None:
    """Train until an epoch, from 0, is over."""
    with killed_after(epoch):
        train("LLMSeqRec", "cycle", None, settings)


def _same(one: TrainResult, other: TrainResult) -> bool:
    # An artifact is named by its content: every weight is the same.
    return one == other and one.artifact is not None


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_killed_training_goes_on_to_the_same_weights(
    settings: dict[str, Any], tmp_path: Path, epoch: int
) -> None:
    whole = train("LLMSeqRec", "cycle", None, settings)
    _train_killed(settings, epoch)
    assert [path.name for path in (tmp_path / "resume").iterdir()] == [_FILE]
    # Where outputs go may change.
    again = train("LLMSeqRec", "cycle", None, {**settings, "checkpoint_dir": str(tmp_path / "b"),
                                               "artifact_dir": str(whole.artifact.parent)})  # fmt: skip
    assert _same(again, whole)
    assert not [*(tmp_path / "resume").iterdir()]


@pytest.mark.parametrize("epoch", [0, 1])
def test_with_an_encoder_that_is_trained_too(
    settings: dict[str, Any], tiny_encoders: dict[str, Path], epoch: int
) -> None:
    tuned = {
        **settings, "encoder": str(tiny_encoders["bert"]), "encoder.finetune": "lora", "epochs": 4,
        "encoder.refresh_epochs": 2, "encoder.lora_dropout": 0.1, "encoder.text_loss_weight": 0.1,
        "encoder.learning_rate": 0.01,
    }  # fmt: skip
    whole = train("LLMSeqRec", "cycle", None, tuned)
    _train_killed(tuned, epoch)
    assert _same(train("LLMSeqRec", "cycle", None, tuned), whole)


def test_with_older_events_drawn_anew(settings: dict[str, Any]) -> None:
    first = train("LLMSeqRec", "cycle", None, {**settings, "resume_dir": None})
    warm = {**settings, "warm_start": str(first.artifact), "train_since": 8}
    whole = train("LLMSeqRec", "cycle", None, warm)
    _train_killed(warm, 1)
    again = train("LLMSeqRec", "cycle", None, warm)
    assert _same(again, whole)
    assert again.start == whole.start


def test_where_the_last_epoch_was_over(settings: dict[str, Any]) -> None:
    short = {**settings, "stopping_step": 0, "epochs": 50, "learning_rate": 0.3}
    whole = train("LLMSeqRec", "cycle", None, short)
    assert whole.epochs < 50
    _train_killed(short, whole.epochs - 1)
    again = train("LLMSeqRec", "cycle", None, short)
    assert _same(again, whole)  # no epoch more


def test_a_process_that_is_killed(settings: dict[str, Any], tmp_path: Path) -> None:
    given = {**settings, "epochs": 40, "stopping_step": 40}
    whole = train("LLMSeqRec", "cycle", None, given)
    command = [sys.executable, "-m", "recbole_llm", "--model=LLMSeqRec", "--dataset=cycle"]
    flags = [f"--{key}={value}" for key, value in given.items()]
    with subprocess.Popen([*command, *flags], cwd=tmp_path) as process:
        while not (tmp_path / "resume" / _FILE).is_file():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert (tmp_path / "resume" / _FILE).is_file()  # it had not ended
    assert _same(train("LLMSeqRec", "cycle", None, given), whole)


def test_another_training_is_not_gone_on_with(settings: dict[str, Any], tmp_path: Path) -> None:
    _train_killed(settings, 1)
    with pytest.raises(ConfigError, match=r"is of another training: learning_rate, seed differ"):
        train("LLMSeqRec", "cycle", None, {**settings, "learning_rate": 0.1, "seed": 3})
    write_cycle(tmp_path, n_users=30)
    with pytest.raises(ConfigError, match=r"is of another training: data differ"):
        train("LLMSeqRec", "cycle", None, settings)


def test_another_encoder_of_the_same_name_is_another_training(
    settings: dict[str, Any], tiny_encoders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoders["bert"], folder)
    given = {**settings, "encoder": str(folder)}
    _train_killed(given, 1)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "attention" in name)
    save_file({**weights, name: weights[name] + 1}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="is of another training: encoders differ"):
        train("LLMSeqRec", "cycle", None, given)


def test_without_validations(settings: dict[str, Any]) -> None:
    given = {**settings, "eval_step": 0, "epochs": 4}
    whole = train("LLMSeqRec", "cycle", None, given)
    assert whole.best_epoch is None
    with pytest.MonkeyPatch.context() as patch, killed_after(1):
        patch.setattr(LLMSeqRecTrainer, "evaluate", None)  # nothing is validated
        train("LLMSeqRec", "cycle", None, given)
    assert _same(train("LLMSeqRec", "cycle", None, given), whole)
    train("LLMSeqRec", "cycle", None, given, keep_unfinished=True)  # to its end, and once more
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLMSeqRec, "end_epoch", None)  # nothing is trained
        assert _same(train("LLMSeqRec", "cycle", None, given), whole)


def test_a_damaged_file(settings: dict[str, Any], tmp_path: Path) -> None:
    _train_killed(settings, 1)
    path = tmp_path / "resume" / _FILE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=r"unfinished.safetensors cannot be read"):
        train("LLMSeqRec", "cycle", None, settings)


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        ("SASRec", {}, "model SASRec"),
        ("LLMSeqRec", {"privacy.epsilon": 4.0}, "privacy.epsilon"),
    ],
)
def test_what_cannot_be_gone_on_with(
    settings: dict[str, Any], model: str, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=f"resume_dir does not go with {told}"):
        train(model, "cycle", None, {**settings, **given})


def test_several_processes_cannot(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="resume_dir does not go with nproc above 1"):
        train("LLMSeqRec", "cycle", None, settings, nproc=2)
