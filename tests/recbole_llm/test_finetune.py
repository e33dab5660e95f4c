from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor

from recbole_llm.encoder import EncoderSpec
from recbole_llm.errors import ConfigError
from recbole_llm.model import LLMSeqRec
from recbole_llm.text_encoder import TextEncoder
from recbole_llm.train import build_config, build_data, train
from tests.data import write_cycle

_SMALL: dict[str, Any] = {
    "hidden_size": 16, "n_layers": 1, "inner_size": 16, "learning_rate": 0.02,
    "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 16, "encoder.finetune": "lora",
    "encoder.lora_r": 2, "encoder.learning_rate": 0.01, "encoder.items_per_step": 8,
}  # fmt: skip


def _build(parent: Path, encoder: Path | str, **settings: Any) -> tuple[LLMSeqRec, Any]:
    write_cycle(parent)
    given = {
        **_SMALL, "encoder": str(encoder), "text_cache": str(parent / "cache.sqlite"),
        "data_path": str(parent), **settings,
    }  # fmt: skip
    config = build_config("LLMSeqRec", "cycle", None, given)
    _, (batches, _, _) = build_data(config)
    return LLMSeqRec(config, batches.dataset), next(iter(batches))


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_the_recommendation_loss_reaches_the_adapters_alone(
    tmp_path: Path, tiny_encoders: dict[str, Path], architecture: str
) -> None:
    model, batch = _build(tmp_path, tiny_encoders[architecture])
    assert model.tuned is not None
    model.train()
    model.calculate_loss(batch).backward()
    gradients = [value.grad for value in model.tuned.adapters]
    # LoRA's second matrix starts at zero, and so the first one has no gradient in the first step.
    assert sum(grad is not None and bool(grad.any()) for grad in gradients) == len(gradients) // 2
    assert not any("frozen" in name for name in model.state_dict())
    (frozen,) = model.tuned._frozen
    trained = {id(value) for value in model.tuned.parameters()}
    assert all(value.grad is None for value in frozen.parameters() if id(value) not in trained)


def test_the_expected_gradient_of_the_draws_is_that_of_all_texts(
    tmp_path: Path, tiny_encoders: dict[str, Path]
) -> None:
    model, batch = _build(
        tmp_path, f"{tiny_encoders['bert']}+tfidf",
        **{
            "encoder.items_per_step": 20_000, "encoder.lora_dropout": 0.0, "id_dropout_prob": 0.0,
            "attn_dropout_prob": 0.0, "hidden_dropout_prob": 0.0,
        },
    )  # fmt: skip
    tuned = model.tuned
    assert tuned is not None
    # LoRA's second matrices begin at zero, where the first ones have no gradient.
    for value in tuned.adapters:
        torch.nn.init.normal_(value, std=0.1)
    model.train()
    described = model.text_vectors.any(1).nonzero().squeeze(1)
    encoded = tuned(described)
    encoded = encoded - encoded.mean(0)
    model.text_vectors[described, : encoded.shape[1]] = encoded.detach()

    loss = model.calculate_loss(batch)
    loss.backward()
    drawn = torch.cat([value.grad.flatten() for value in tuned.adapters])
    model.zero_grad()

    model.tuned = None  # what the network reads is then all encoded in the step
    vectors = model.text_vectors.clone()
    vectors[described, : encoded.shape[1]] = encoded
    model.text_vectors = vectors
    expected = model.calculate_loss(batch)
    expected.backward()
    whole = torch.cat([value.grad.flatten() for value in tuned.adapters])
    torch.testing.assert_close(loss, expected)
    assert (drawn - whole).norm() < 0.05 * whole.norm()


def test_a_gradient_that_is_not_finite_is_left_out(
    tmp_path: Path, tiny_encoders: dict[str, Path]
) -> None:
    model, batch = _build(tmp_path, tiny_encoders["bert"])
    tuned = model.tuned
    assert tuned is not None
    vectors = model.text_vectors.clone().requires_grad_()
    for factor in (torch.inf, 0.0):
        led = tuned.pass_on((factor * vectors).sum(), vectors)
        led.backward()
        assert led == 0
        # Processes that learn together wait for a gradient of each adapter.
        assert all((value.grad == 0).all() for value in tuned.adapters)
    model.train()
    model.calculate_loss(batch).backward()
    assert any((value.grad != 0).any() for value in tuned.adapters)


def test_all_vectors_change_once_an_epoch(tmp_path: Path, tiny_encoders: dict[str, Path]) -> None:
    model, batch = _build(tmp_path, tiny_encoders["bert"], **{"encoder.items_per_step": 3})
    assert model.tuned is not None
    before = model.text_vectors.clone()
    torch.testing.assert_close(model.tuned.encode_all(), before, atol=1e-4, rtol=1e-4)
    model.train()
    read: list[int] = []
    model.tuned.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    optimizer = torch.optim.Adam(model.parameter_groups(), lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
    assert len(read) == 3
    assert all(1 <= n_texts <= 3 for n_texts in read)
    torch.testing.assert_close(model.text_vectors, before, rtol=0, atol=0)
    model.end_epoch(0)
    model.eval()
    torch.testing.assert_close(model.text_vectors, model.tuned.encode_all())
    with_text = before.any(1)
    assert (model.text_vectors[with_text] != before[with_text]).any(1).all()
    assert not model.text_vectors[~with_text].any()
    torch.testing.assert_close(  # a shift that all share is taken out
        model.text_vectors[with_text].mean(0), torch.zeros(before.shape[1]), atol=1e-5, rtol=0
    )


def test_texts_are_read_as_a_frozen_encoder_reads_them(
    tmp_path: Path, tiny_encoders: dict[str, Path]
) -> None:
    """Under the prompt of the encoder's folder: whitening was fitted to such vectors."""
    folder = tmp_path / "prompted"
    modules = [Transformer(str(tiny_encoders["bert"])), Pooling(16, "mean")]
    SentenceTransformer(
        modules=modules, device="cpu", prompts={"item": "the film "}, default_prompt_name="item"
    ).save(str(folder))
    model, batch = _build(tmp_path, folder, **{"encoder.lora_dropout": 0.0})
    assert model.tuned is not None
    frozen = model.text_vectors
    torch.testing.assert_close(model.tuned.encode_all(), frozen, atol=1e-4, rtol=1e-4)
    model.tuned.eval()
    met = batch[model.POS_ITEM_ID].unique()
    torch.testing.assert_close(model.tuned(met), frozen[met], atol=1e-4, rtol=1e-4)


def test_all_are_encoded_anew_every_so_many_epochs(
    tmp_path: Path, tiny_encoders: dict[str, Path]
) -> None:
    model, batch = _build(tmp_path, tiny_encoders["bert"], **{"encoder.refresh_epochs": 2})
    optimizer = torch.optim.SGD(model.parameter_groups(), lr=1.0)
    changed = []
    for epoch in range(4):
        model.train()
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
        before = model.text_vectors.clone()
        model.end_epoch(epoch)
        changed.append(not torch.equal(model.text_vectors, before))
    assert changed == [False, True, False, True]


@pytest.mark.parametrize("ema_decay", [0.5, 0.0])
def test_averaged_adapters_rank(
    tmp_path: Path, tiny_encoders: dict[str, Path], ema_decay: float
) -> None:
    model, batch = _build(tmp_path, tiny_encoders["bert"], ema_decay=ema_decay)
    tuned = model.tuned
    assert tuned is not None
    taken = []
    for _ in range(3):
        model.train()
        model.calculate_loss(batch).backward()
        taken.append([value.detach().clone() for value in tuned.adapters])
        torch.optim.SGD(model.parameter_groups(), lr=1.0).step()
        model.zero_grad()
    trained = [value.detach().clone() for value in tuned.adapters]
    # Each step takes what the one before left: 1/4, 1/4 and 1/2 of the three, or the last weights.
    expected = trained
    if ema_decay:
        expected = [0.25 * a + 0.25 * b + 0.5 * c for a, b, c in zip(*taken, strict=True)]
    with tuned._averaged():
        torch.testing.assert_close([*tuned.adapters], expected)
    model.end_epoch(0)
    model.eval()
    torch.testing.assert_close([*tuned.adapters], trained, rtol=0, atol=0)
    ranking = model.text_vectors.clone()
    for value, average in zip(tuned.adapters, expected, strict=True):
        value.data = average
    tuned.average = None
    torch.testing.assert_close(tuned.encode_all(), ranking)


def test_only_the_language_model_s_columns_change(
    tmp_path: Path, tiny_encoders: dict[str, Path]
) -> None:
    model, batch = _build(tmp_path, f"{tiny_encoders['bert']}+tfidf")
    assert model.tuned is not None
    before, width = model.text_vectors.clone(), model.tuned.encode_all().shape[1]
    assert width < before.shape[1]
    model.train()
    model.calculate_loss(batch).backward()
    torch.optim.SGD(model.parameter_groups(), lr=1.0).step()
    model.end_epoch(0)
    model.eval()
    assert (model.text_vectors != before).any(0)[:width].any()
    torch.testing.assert_close(model.text_vectors[:, width:], before[:, width:])


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_language_modelling_joins_the_loss(
    tmp_path: Path, tiny_encoders: dict[str, Path], architecture: str
) -> None:
    losses = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model, batch = _build(
            tmp_path, tiny_encoders[architecture],
            **{"encoder.text_loss_weight": weight, "encoder.gradient_checkpointing": bool(weight)},
        )  # fmt: skip
        model.train()
        loss = model.calculate_loss(batch)
        loss.backward()
        losses.append(loss.item())
    # As many classes as words; a fresh model guesses among them.
    assert losses[1] - losses[0] > 1.0


def _train(parent: Path, encoder: Path, **settings: Any) -> Any:
    given = {**_SMALL, "encoder": str(encoder), "epochs": 6, **settings}
    given |= {
        "text_cache": str(parent / "cache.sqlite"), "data_path": str(parent),
        "artifact_dir": str(parent / "artifacts"),
    }  # fmt: skip
    return train("LLMSeqRec", "cycle", None, given)


@pytest.mark.parametrize(
    ("architecture", "enable_amp"), [("bert", False), ("bert", True), ("qwen3", False)]
)
def test_trained_and_exported_with_its_adapter(
    tmp_path: Path, tiny_encoders: dict[str, Path], architecture: str, enable_amp: bool
) -> None:
    write_cycle(tmp_path)
    encoder = tiny_encoders[architecture]
    result = _train(tmp_path, encoder, enable_amp=enable_amp, seed=1)
    assert result.test_result["mrr@10"] > 0.6
    adapter = result.artifact / "adapter"
    texts = ["Film i3 of the cycle", "A film nobody has met"]
    plain, tuned = (
        TextEncoder(encoder, EncoderSpec(str(encoder), adapter=path), "cpu").encode(texts)
        for path in (None, str(adapter))
    )
    assert abs(plain - tuned).max() > 1e-4


def test_the_best_epoch_s_vectors_come_back(tmp_path: Path, tiny_encoders: dict[str, Path]) -> None:
    model, batch = _build(tmp_path, tiny_encoders["bert"])
    model.eval()
    best = {name: value.clone() for name, value in model.state_dict().items()}
    ranked = model.full_sort_predict(batch)
    model.train()
    model.calculate_loss(batch).backward()
    torch.optim.SGD(model.parameter_groups(), lr=1.0).step()
    model.end_epoch(0)
    model.eval()
    assert not torch.equal(model.full_sort_predict(batch), ranked)
    model.load_state_dict(best)
    found: Tensor = model.full_sort_predict(batch)
    torch.testing.assert_close(found, ranked)


def test_errors_before_training(tmp_path: Path, tiny_encoders: dict[str, Path]) -> None:
    bert = tiny_encoders["bert"]
    with pytest.raises(
        ConfigError, match=r"\['q_prj'\] are no layers of BertModel; it has .*query"
    ):
        _build(tmp_path, bert, **{"encoder.lora_targets": "q_prj"})
    with pytest.raises(ConfigError, match=r"encoder\.finetune must be ~ or lora, got 'all'"):
        _build(tmp_path, bert, **{"encoder.finetune": "all"})
    with pytest.raises(ConfigError, match="trains one language model, named first"):
        _build(tmp_path, f"tfidf+{bert}")
    with pytest.raises(ConfigError, match="did you mean 'encoder.lora_r'"):
        _build(tmp_path, bert, **{"encoder.lora_rank": 4})


def test_an_adapter_of_another_model(tmp_path: Path, tiny_encoders: dict[str, Path]) -> None:
    model, _ = _build(tmp_path, tiny_encoders["bert"])
    assert model.tuned is not None
    model.tuned.save(tmp_path / "adapter")
    qwen = tiny_encoders["qwen3"]
    with pytest.raises(ConfigError, match="adapter is not of a Qwen3Model"):
        TextEncoder(qwen, EncoderSpec(str(qwen), adapter=str(tmp_path / "adapter")), "cpu")
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"model: {tiny_encoders['bert']}\nadapter: {tmp_path / 'adapter'}\n")
    with pytest.raises(ConfigError, match=r"finetune starts from plain weights.*leave the adapter"):
        _build(tmp_path, str(spec))
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors is absent"):
        TextEncoder(qwen, EncoderSpec(str(qwen), adapter=str(tmp_path)), "cpu")
