import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from recbole_llm.cli import main
from recbole_llm.encoder import EncoderSpec, find_encoder
from recbole_llm.errors import ConfigError
from recbole_llm.language_model import LanguageModelLoss
from recbole_llm.pretrain import loop, pretrain, pretrain_options
from recbole_llm.pretrain.loop import _is_whole, _tell_kept
from recbole_llm.pretrain.objectives import DenoisingLoss, PopularityCorrectedLoss
from recbole_llm.text_encoder import TextEncoder, features_of, load_sentence_transformer
from tests.data import CYCLE, walk, write_atomic
from tests.networks import word_tokenizer

FILMS = {item: f"Film {item} of the cycle" for item in CYCLE}


@pytest.fixture
def cycle(tmp_path: Path) -> Path:
    sequences = {f"u{n}": walk(n, 6 + n % 5) for n in range(24)}
    write_atomic(tmp_path, "cycle", sequences, FILMS)
    return tmp_path


def _run(parent: Path, name: str, encoder: Path, **settings: Any) -> Path:
    given = {
        "encoder": str(encoder), "epochs": 2, "train_batch_size": 8, "learning_rate": 0.01,
        "eval_steps": 0.5, "data_path": str(parent), **settings,
    }  # fmt: skip
    options, rest = pretrain_options(None, given)
    return pretrain("cycle", parent / name, options, rest)


def _evaluations(folder: Path) -> list[dict[str, float]]:
    told = json.loads((folder / "pretrain.json").read_text())
    return told["evaluations"]  # type: ignore[no-any-return]


def test_pairs_teach_what_follows(cycle: Path, tiny_encoders: dict[str, Path]) -> None:
    folder = _run(cycle, "taught", tiny_encoders["bert"], epochs=12)
    evaluations = _evaluations(folder)
    best = max(found["eval_ndcg@10"] for found in evaluations)
    assert best > evaluations[0]["eval_ndcg@10"] + 0.3
    vectors = TextEncoder(folder, find_encoder(str(folder)), "cpu").encode(list(FILMS.values()))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T - 2 * np.eye(len(unit))
    steps = (near.argmax(1) - np.arange(len(unit))) % len(unit)
    assert set(steps.tolist()) <= {1, len(unit) - 1}  # the neighbours on the cycle
    assert not list(cycle.glob("*.checkpoints"))


@pytest.mark.parametrize(
    ("objective", "architecture"),
    [("mlm", "bert"), ("denoising", "bert"), ("clm", "qwen3"), ("contrastive", "qwen3")],
)
def test_each_objective_lowers_its_loss(
    cycle: Path, tiny_encoders: dict[str, Path], objective: str, architecture: str
) -> None:
    folder = _run(
        cycle, "taught", tiny_encoders[architecture], objective=objective, held_out=0.2, epochs=6
    )
    losses = [found["eval_loss"] for found in _evaluations(folder)]
    assert min(losses[1:]) < losses[0]
    assert TextEncoder(folder, EncoderSpec(str(folder)), "cpu").encode(["film"]).shape == (1, 16)


def test_lora_is_merged(cycle: Path, tiny_encoders: dict[str, Path]) -> None:
    folder = _run(cycle, "taught", tiny_encoders["qwen3"], lora_r=2, epochs=4)
    before, after = (
        load_file(path / "model.safetensors") for path in (tiny_encoders["qwen3"], folder)
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name for name in changed)
    assert not any("embed" in name or "norm" in name for name in changed)


def test_pairs_of_equal_popularity_have_the_librarys_loss(tiny_encoders: dict[str, Path]) -> None:
    spec = EncoderSpec(str(tiny_encoders["bert"]))
    model = load_sentence_transformer(tiny_encoders["bert"], spec, "cpu").eval()
    texts = [text * n for n, text in enumerate(FILMS.values(), start=1)]
    pairs = [features_of(model, part) for part in (texts, texts[::-1])]
    losses = (
        MultipleNegativesRankingLoss(model, 20.0),
        PopularityCorrectedLoss(model, 20.0, batch_tokens=16),
    )
    theirs, ours = (loss([dict(column) for column in pairs], torch.zeros(1)) for loss in losses)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("lora_r", [0, 2])
def test_the_best_weights_are_written(
    cycle: Path, tiny_encoders: dict[str, Path], lora_r: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At so high a rate the last weights are the best ones by chance alone."""
    ended_below = 0
    for seed in range(3):
        folder = _run(
            cycle, f"taught-{seed}", tiny_encoders["qwen3"], epochs=4, eval_steps=0.2,
            learning_rate=1.0, warmup_ratio=0.9, lora_r=lora_r, seed=seed,
        )  # fmt: skip
        untaught, *found = [figures["eval_ndcg@10"] for figures in _evaluations(folder)]
        ended_below += found[-1] < max(found)
        step = json.loads((folder / "pretrain.json").read_text())["kept_step"]
        by_step = {entry["step"]: entry["eval_ndcg@10"] for entry in _evaluations(folder)[1:]}
        assert by_step[step] == max(found)
        assert ("they find next items worse" in caplog.text) == (max(found) < untaught)
        caplog.clear()
        again = _run(cycle, f"again-{seed}", folder, epochs=1, eval_steps=1.0, learning_rate=1e-12)
        # Adapters of that size, merged, turn the order of a few near vectors.
        assert _evaluations(again)[0]["eval_ndcg@10"] == pytest.approx(max(found), abs=0.05)
    assert ended_below


def test_weights_that_find_next_items_worse_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="recbole_llm")
    untaught = {"eval_ndcg@10": 0.0705}
    _tell_kept(untaught, {"step": 53, "eval_ndcg@10": 0.0705})
    assert not caplog.records
    _tell_kept(untaught, {"step": 53, "eval_ndcg@10": 0.0567})
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "NDCG@10 0.0567, before 0.0705. What" in record.getMessage()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "architecture", "lora_r"),
    [("contrastive", "bert", 0), ("mlm", "bert", 0), ("denoising", "bert", 0), ("clm", "qwen3", 2)],
)
def test_a_killed_run_goes_on_to_the_same_weights(
    cycle: Path, tiny_encoders: dict[str, Path], objective: str, architecture: str, lora_r: int,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    settings = {
        "objective": objective, "epochs": 6, "eval_steps": 0.1, "train_batch_size": 8,
        "learning_rate": 0.01, "lora_r": lora_r, "data_path": str(cycle),
    }  # fmt: skip
    encoder = tiny_encoders[architecture]
    whole = _run(cycle, "whole", encoder, **settings)
    command = [
        "pretrain", "--dataset", "cycle", "--output_dir", str(cycle / "killed"),
        f"--encoder={encoder}", *(f"--{key}={value}" for key, value in settings.items()),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "recbole_llm", *command], cwd=cycle, stderr=subprocess.PIPE
    )
    checkpoints = cycle / "killed.checkpoints"
    while not any(map(_is_whole, checkpoints.glob("checkpoint-*"))):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cycle / "killed").exists()
    for checkpoint in filter(_is_whole, checkpoints.glob("checkpoint-*")):
        state = checkpoint / "trainer_state.json"
        told = json.loads(state.read_text())
        told["log_history"][-1]["seconds"] += 1000  # as if it had taken long to come so far
        state.write_text(json.dumps(told))
    torn = checkpoints / "checkpoint-999"
    torn.mkdir()
    for name in ("trained.safetensors", "trainer_state.json"):  # opened, and not yet written
        (torn / name).touch()
    caplog.set_level("INFO", logger="recbole_llm")
    assert main(command) == 0
    assert "going on from checkpoint-" in caplog.text
    one, other = (load_file(path / "model.safetensors") for path in (whole, cycle / "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((cycle / "killed" / "pretrain.json").read_text())["seconds"] > 1000


def test_a_run_killed_before_its_first_checkpoint(
    cycle: Path, tiny_encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(cycle, "whole", tiny_encoders["bert"])
    with monkeypatch.context() as patched:
        patched.setattr(SentenceTransformerTrainer, "train", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _run(cycle, "killed", tiny_encoders["bert"])
    assert (cycle / "killed.checkpoints" / "untaught.json").is_file()
    killed = _run(cycle, "killed", tiny_encoders["bert"])
    one, other = (load_file(path / "model.safetensors") for path in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def _run_killed(*args: Any, **settings: Any) -> None:
    """Train to the end, and die before anything is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_write", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _run(*args, **settings)


def test_the_best_weights_are_written_from_a_folder_that_was_moved(
    cycle: Path, tiny_encoders: dict[str, Path]
) -> None:
    hot: dict[str, Any] = {
        "epochs": 4,
        "eval_steps": 0.2,
        "learning_rate": 1.0,
        "warmup_ratio": 0.9,
    }
    for seed in range(9):
        whole = _run(cycle, f"whole-{seed}", tiny_encoders["qwen3"], **hot, seed=seed)
        found = _evaluations(whole)[1:]
        if found[-1]["eval_ndcg@10"] < max(each["eval_ndcg@10"] for each in found):
            break
    else:
        pytest.fail("the last weights were the best for each seed")
    _run_killed(cycle, "here", tiny_encoders["qwen3"], **hot, seed=seed)
    (cycle / "here.checkpoints").rename(cycle / "there.checkpoints")
    moved = _run(cycle, "there", tiny_encoders["qwen3"], **hot, seed=seed)
    one, other = (load_file(path / "model.safetensors") for path in (whole, moved))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_data_is_another_run(cycle: Path, tiny_encoders: dict[str, Path]) -> None:
    _run_killed(cycle, "taught", tiny_encoders["bert"])
    write_atomic(cycle, "cycle", {f"u{n}": walk(n, 6 + n % 5) for n in range(40)}, FILMS)
    with pytest.raises(ConfigError, match="checkpoints of another run: data differ"):
        _run(cycle, "taught", tiny_encoders["bert"])


@pytest.mark.parametrize(
    ("objective", "architecture"),
    [("mlm", "bert"), ("denoising", "bert"), ("clm", "qwen3"), ("contrastive", "bert")],
)
def test_half_precision_is_of_all_that_is_trained(
    cycle: Path, tiny_encoders: dict[str, Path], objective: str, architecture: str
) -> None:
    found = set()

    def note(module: torch.nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear) and module.training:
            found.add(output.dtype)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        _run(
            cycle,
            "taught",
            tiny_encoders[architecture],
            objective=objective,
            enable_amp=True,
            epochs=1,
        )
    finally:
        hook.remove()
    assert found == {torch.bfloat16}


def test_how_far_texts_are_read(cycle: Path, tiny_encoders: dict[str, Path]) -> None:
    """As far as they were in training, unless more is asked for."""
    folder = _run(cycle, "taught", tiny_encoders["bert"], epochs=1, max_tokens=4)
    spec = find_encoder(str(folder))
    assert TextEncoder(folder, spec, "cpu").max_tokens == spec.max_tokens == 4
    assert TextEncoder(folder, EncoderSpec(str(folder), max_tokens=9), "cpu").max_tokens == 9
    again = _run(cycle, "again", folder, epochs=1, max_tokens=7)
    assert find_encoder(str(again)).max_tokens == 7


def test_a_network_that_cuts_nothing_is_taught_too(cycle: Path) -> None:
    words = StaticEmbedding(word_tokenizer().backend_tokenizer, embedding_dim=7)
    SentenceTransformer(modules=[words]).save_pretrained(
        str(cycle / "words"), create_model_card=False
    )
    folder = _run(cycle, "taught", cycle / "words", epochs=1)
    assert TextEncoder(folder, find_encoder(str(folder)), "cpu").encode(["film"]).shape == (1, 7)


def test_what_is_taught_is_what_is_read_a_prompt_with_it(
    cycle: Path, tiny_encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_encoders["bert"]
    model = load_sentence_transformer(path, EncoderSpec(str(path)), "cpu")
    model.prompts, model.default_prompt_name = {"as": "film of the cycle: "}, "as"
    model.save_pretrained(str(cycle / "prompted"), create_model_card=False)
    begin = features_of(model, ["x"])["input_ids"][0, :4].tolist()
    assert begin != model.preprocess(["x"])["input_ids"][0, :4].tolist()
    read = []
    forward = PopularityCorrectedLoss.forward

    def noted(self: Any, sentence_features: Any, labels: Any) -> Any:
        read.extend(row[:4].tolist() for part in sentence_features for row in part["input_ids"])
        return forward(self, sentence_features, labels)

    monkeypatch.setattr(PopularityCorrectedLoss, "forward", noted)
    _run(cycle, "taught", cycle / "prompted", epochs=1)
    assert read
    assert all(row == begin for row in read)


def test_denoising_trains_all_weights(cycle: Path, tiny_encoders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="lora_r must be 0, got 2, and encoder"):
        _run(cycle, "taught", tiny_encoders["bert"], objective="denoising", lora_r=2)


def test_another_run_s_checkpoints_are_refused(cycle: Path, tiny_encoders: dict[str, Path]) -> None:
    _run(cycle, "taught", tiny_encoders["bert"], epochs=1)
    with pytest.raises(ConfigError, match="taught is already there"):
        _run(cycle, "taught", tiny_encoders["bert"], epochs=1)
    left = cycle / "next.checkpoints"
    left.mkdir()
    (left / "settings.json").write_text(json.dumps({"weights": "other", "epochs": 1}))
    with pytest.raises(ConfigError, match="checkpoints of another run: .*weights.* differ"):
        _run(cycle, "next", tiny_encoders["bert"], epochs=1)


@pytest.mark.parametrize(
    ("objective", "architecture", "message"),
    [
        ("mlm", "qwen3", "mlm does not fit .*, a Qwen3Model: take clm or contrastive"),
        ("clm", "bert", "clm does not fit .*, a BertModel: take mlm, denoising or contrastive"),
        ("denoising", "qwen3", "denoising does not fit .*, a Qwen3Model: take contrastive, or"),
    ],
)
def test_an_objective_that_does_not_fit(
    cycle: Path, tiny_encoders: dict[str, Path], objective: str, architecture: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _run(cycle, "taught", tiny_encoders[architecture], objective=objective)
    _run(cycle, "taught", tiny_encoders[architecture], epochs=1)  # nothing of it stands in the way


@pytest.mark.parametrize("kind", [LanguageModelLoss, DenoisingLoss])
def test_the_same_weights_have_the_same_loss(tiny_encoders: dict[str, Path], kind: Any) -> None:
    path = tiny_encoders["bert"]
    model = load_sentence_transformer(path, EncoderSpec(str(path)), "cpu")
    loss = kind(model, path, 0.5) if kind is LanguageModelLoss else kind(model, 0.5)
    features = model.preprocess(list(FILMS.values()))

    def measured() -> float:
        return float(loss([dict(features)], None).detach())

    model.train()
    assert measured() != measured()
    model.eval()  # as the library's evaluation does
    state = torch.random.get_rng_state()
    assert measured() == measured()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("mask_prob", [1e-9, None])
def test_texts_without_a_word_to_guess_cost_nothing(
    tiny_encoders: dict[str, Path], mask_prob: float | None
) -> None:
    path = tiny_encoders["bert" if mask_prob else "qwen3"]
    model = load_sentence_transformer(path, EncoderSpec(str(path)), "cpu")
    loss = LanguageModelLoss(model, path, mask_prob)
    value = loss([model.preprocess(["film", "a"])], None)
    assert float(value.detach()) == 0
    value.backward()


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="objective must be one of contrastive, .* got 'cml'"):
        pretrain_options(None, {"objective": "cml"})
    with pytest.raises(ConfigError, match="did you mean 'pair_window'"):
        pretrain_options(None, {"pair_windows": 2})
    options, rest = pretrain_options(None, {"data_path": "x", "epochs": 1})
    assert (options.epochs, rest) == (1, {"data_path": "x"})
