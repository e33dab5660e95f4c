from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.trainer import Trainer

from recbole_llm.errors import ArtifactError
from recbole_llm.model import LLMSeqRec
from recbole_llm.train import build_config, build_data
from recbole_llm.trainer import LLMSeqRecTrainer
from tests.data import write_cycle


def _trainer(parent: Path, **settings: Any) -> tuple[LLMSeqRecTrainer, Any]:
    write_cycle(parent)
    config = build_config(
        "LLMSeqRec", "cycle", None,
        {"data_path": str(parent), "item_repr": "id", "hidden_size": 8, "inner_size": 8,
         "n_layers": 1, "train_batch_size": 16, "seed": 3, **settings},
    )  # fmt: skip
    dataset, loaders = build_data(config)
    torch.manual_seed(3)
    model = LLMSeqRec(config, dataset)
    return LLMSeqRecTrainer(config, model), loaders


def test_best_checkpoint_is_loaded_for_the_test(tmp_path: Path) -> None:
    trainer, (train, valid, test) = _trainer(tmp_path, epochs=4, learning_rate=0.01)
    trainer.fit(train, valid, verbose=False, saved=True)
    path = Path(trainer.saved_model_file)
    assert path.suffix == ".safetensors"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    best = trainer.evaluate(test)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.zero_()
    assert trainer.evaluate(test, load_best_model=False) != best
    assert trainer.evaluate(test) == best


def test_resume_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    dropout_free = {
        "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
        "id_dropout_prob": 0.0,
        "shuffle": False,
    }
    whole, (train, _, _) = _trainer(tmp_path, epochs=4, **dropout_free)
    whole.fit(train, None, verbose=False, saved=False)
    half, (train, _, _) = _trainer(tmp_path, epochs=2, **dropout_free)
    half.fit(train, None, verbose=False, saved=True)
    resumed, (train, _, _) = _trainer(tmp_path, epochs=4, **dropout_free)
    resumed.resume_checkpoint(half.saved_model_file)
    assert resumed.start_epoch == 2
    resumed.fit(train, None, verbose=False, saved=False)
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], weight, rtol=0, atol=0)


def test_a_pickled_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer, (_, _, test) = _trainer(tmp_path)
    planted, marker = tmp_path / "planted.pth", tmp_path / "ran"
    planted.write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    with pytest.raises(ArtifactError, match="expected a .safetensors file"):
        trainer.evaluate(test, model_file=str(planted))
    assert not marker.exists()


def test_only_storing_and_distributing_differ_from_recbole() -> None:
    own = {name for name in vars(LLMSeqRecTrainer) if callable(getattr(LLMSeqRecTrainer, name))}
    assert issubclass(LLMSeqRecTrainer, Trainer)
    assert own == {
        "__init__", "fit", "_build_optimizer", "_train_epoch", "_half_precision", "checkpoint",
        "_save_checkpoint", "resume_checkpoint", "go_on", "evaluate", "_load_weights",
    }  # fmt: skip


def test_half_precision_is_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch would take on that device, which on GPUs is float16."""
    before, found = torch.get_autocast_dtype("cpu"), []
    calculate = LLMSeqRec.calculate_loss

    def noted(model: LLMSeqRec, batch: Any) -> Any:
        found.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return calculate(model, batch)

    monkeypatch.setattr(LLMSeqRec, "calculate_loss", noted)
    trainer, (train, valid, _) = _trainer(tmp_path, epochs=1, enable_amp=True)
    try:
        torch.set_autocast_dtype("cpu", torch.float16)
        trainer.fit(train, valid, verbose=False, saved=False)
        assert torch.get_autocast_dtype("cpu") == torch.float16
    finally:
        torch.set_autocast_dtype("cpu", before)
    assert set(found) == {(True, torch.bfloat16)}


@pytest.mark.parametrize("eval_step", [0, 2])
def test_the_model_is_told_of_each_epoch_validated_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eval_step: int
) -> None:
    ends: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        LLMSeqRec, "end_epoch", lambda model, epoch: ends.append((epoch, model.training))
    )
    trainer, (train, valid, _) = _trainer(tmp_path, epochs=3, eval_step=eval_step)
    trainer.fit(train, valid, verbose=False, saved=False)
    assert ends == [(0, True), (1, True), (2, True)]
