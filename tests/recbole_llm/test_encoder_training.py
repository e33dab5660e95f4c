"""Every kind of Hugging Face model learns: gradients in batches, no dropout, adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llm.encoder import EncoderSpec
from recbole_llm.lora import add_lora, take_out_dropout
from recbole_llm.text_encoder import embed_features, features_of, load_sentence_transformer
from tests.networks import LONG, NETWORKS, TEXTS, encode


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_step_reads_texts_in_batches_of_like_lengths(
    networks: dict[str, Path], name: str
) -> None:
    model = load_sentence_transformer(networks[name], EncoderSpec(str(networks[name])), "cpu")
    features = features_of(model, [LONG, *TEXTS, " ", LONG])
    widths: list[int] = []

    def network(batch: dict[str, Any]) -> dict[str, Any]:
        widths.append(batch["input_ids"].shape[1])
        return model(batch)  # type: ignore[no-any-return]

    found = []
    for batch_tokens in (1_000, 8):
        model.zero_grad()
        vectors = embed_features(network, features, batch_tokens)
        vectors.square().sum().backward()
        gradients = [own.grad.clone() for own in model.parameters() if own.grad is not None]
        found.append((vectors.detach(), gradients))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0][0], model(features)["sentence_embedding"].detach())
    assert widths[0] == widths[1] == widths[2] > 8 >= widths[-1]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_without_dropout_training_reads_texts_alike(networks: dict[str, Path], name: str) -> None:
    model = load_sentence_transformer(networks[name], EncoderSpec(str(networks[name])), "cpu")
    features = features_of(model, TEXTS)
    plain = model(dict(features))["sentence_embedding"]
    model.train()
    has_dropout = name in ("BertModel", "RobertaModel", "MPNetModel", "T5Model", "GPT2Model")
    if has_dropout:
        assert not torch.allclose(model(dict(features))["sentence_embedding"], plain, atol=1e-3)
    take_out_dropout(model)
    torch.testing.assert_close(model(dict(features))["sentence_embedding"], plain)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_adapters_learn_on_each(networks: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = networks[name]
    model = load_sentence_transformer(folder, EncoderSpec(str(folder), "mean"), "cpu")
    before = torch.from_numpy(encode(folder, TEXTS, "mean"))
    adapters = add_lora(model, 2, "all-linear")
    trained = [value for value in adapters.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    vectors = model(model.preprocess(TEXTS))["sentence_embedding"]
    torch.testing.assert_close(vectors, before, atol=1e-4, rtol=1e-4)
    vectors.square().sum().backward()
    optimizer.step()
    adapters.save_pretrained(tmp_path)
    after = encode(folder, TEXTS, "mean", adapter=str(tmp_path))
    assert abs(after - before.numpy()).max() > 1e-4
