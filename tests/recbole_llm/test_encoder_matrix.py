"""Every kind of Hugging Face model: tiny random ones, held against transformers run on one text."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)

from recbole_llm.encoder import EncoderSpec, locate_weights
from recbole_llm.errors import ConfigError
from recbole_llm.scoring import topk
from recbole_llm.text_encoder import TextEncoder, load_sentence_transformer
from tests.networks import (
    LONG,
    NETWORKS,
    TEXTS,
    byte_tokenizer,
    encode,
    save_network,
    word_tokenizer,
)

_CHAT = "{% for m in messages %}<s> nobody has met {{ m['content'] }} </s>{% endfor %}"


def _by_hand(folder: Path, text: str, pooling: str) -> NDArray[np.float32]:
    network = transformers.AutoModel.from_pretrained(folder)
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        states = network.eval()(input_ids=tokens["input_ids"]).last_hidden_state[0]
    rows = {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}
    return np.asarray(rows[pooling])


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_a_batch_is_transformers_on_each_text_alone(
    networks: dict[str, Path], name: str, pooling: str, tmp_path: Path
) -> None:
    folder = networks[name]
    alone = np.stack([_by_hand(folder, text, pooling) for text in TEXTS])
    encoder = TextEncoder(folder, EncoderSpec("x", pooling), "cpu")
    together = encoder.encode(TEXTS)
    # Padding changes the order of float additions, no more.
    np.testing.assert_allclose(together, alone, atol=1e-5)
    one_by_one = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(one_by_one, alone, atol=1e-5)
    left = tmp_path / "left"
    shutil.copytree(folder, left)
    config = json.loads((left / "tokenizer_config.json").read_text())
    (left / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "left"}))
    np.testing.assert_array_equal(encode(left, TEXTS, pooling), together)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_text_longer_than_the_positions_is_cut_and_counted(
    networks: dict[str, Path], name: str
) -> None:
    encoder = TextEncoder(networks[name], EncoderSpec("x", max_tokens=64), "cpu")
    vectors = encoder.encode([LONG, "film", LONG + "of nobody"])
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert encoder.n_cut == 2
    assert encoder.max_tokens <= 26 or name in ("T5Model",)
    if name in ("RobertaModel", "XLMRobertaModel", "MPNetModel"):
        assert encoder.max_tokens == 24  # positions 0 and 1 are padding's


@pytest.mark.parametrize("name", ["T5Model", "BartModel"])
def test_a_decoder_that_no_text_needs_is_not_kept(networks: dict[str, Path], name: str) -> None:
    model = load_sentence_transformer(networks[name], EncoderSpec("x"), "cpu")
    assert [part for part, _ in model.named_modules() if "decoder" in part] == []


def test_a_chat_models_template_is_left_out(networks: dict[str, Path], tmp_path: Path) -> None:
    chat = save_network(tmp_path, "LlamaModel", chat_template=_CHAT)
    np.testing.assert_array_equal(encode(chat, TEXTS), encode(networks["LlamaModel"], TEXTS))


@pytest.mark.parametrize("name", ["GPT2Model", "LlamaModel"])
def test_a_decoder_without_a_padding_token(
    networks: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = save_network(tmp_path, name, pad_token=None)
    np.testing.assert_array_equal(
        encode(folder, TEXTS, "lasttoken"), encode(networks[name], TEXTS, "lasttoken")
    )


def test_bfloat16_products_stay_near(
    networks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for has_unit in (True, False):
        unit = "avx512_bf16" if has_unit else None
        monkeypatch.setattr(topk, "bfloat16_unit", lambda unit=unit: unit)
        half, whole = (
            encode(networks["BertModel"], TEXTS, dtype=dtype) for dtype in ("bfloat16", "float32")
        )
        assert np.array_equal(half, whole) is not has_unit
        assert _cosines(half, whole).min() >= 0.9999


def test_threads_change_no_bit(networks: dict[str, Path]) -> None:
    before = torch.get_num_threads()
    texts = [text for n in range(1, 9) for text in (" ".join(["film"] * n), LONG[: 9 * n])]
    try:
        vectors = []
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            vectors.append(encode(networks["BertModel"], texts, batch_size=1, max_tokens=16))
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == n_threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*vectors)


def test_texts_without_a_token_get_zeros(networks: dict[str, Path]) -> None:
    encoder = TextEncoder(networks["BertModel"], EncoderSpec("x"), "cpu")
    assert encoder.encode([" ", "\t"]).tolist() == [[0.0] * 16] * 2
    vectors = encoder.encode(["film", "", "a"])
    np.testing.assert_allclose(vectors[[0, 2]], encoder.encode(["film", "a"]), atol=1e-6)
    assert not vectors[1].any()
    assert encoder.n_empty == 3


def _cosines(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return np.asarray((unit(ours) * unit(theirs)).sum(1))


def _save_pipeline(folder: Path, network: Path, *more: Any) -> Path:
    transformer = Transformer(str(network))
    SentenceTransformer(modules=[transformer, Pooling(16, "cls"), *more], device="cpu").save(
        str(folder)
    )
    return folder


@pytest.mark.parametrize("name", ["BertModel", "LlamaModel"])
def test_a_pipeline_gives_the_librarys_vectors(
    networks: dict[str, Path], tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    folder = _save_pipeline(tmp_path / "p", networks[name], Dense(16, 5), Normalize())
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    settings.update(prompts={"item": "the film "}, default_prompt_name="item")
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    ours = encode(folder, [*TEXTS, LONG])
    assert ours.shape == (5, 5)
    theirs = SentenceTransformer(str(folder), device="cpu").encode([*TEXTS, LONG])
    assert _cosines(ours, theirs).min() >= 0.9999
    assert encode(folder, TEXTS, "mean").shape == (4, 16)  # a pooling asked for leaves it out


def test_a_pipeline_with_the_network_in_a_folder_of_its_own(
    networks: dict[str, Path], tmp_path: Path
) -> None:
    folder = _save_pipeline(tmp_path / "p", networks["BertModel"])
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "0_Transformer").mkdir()
    for file in [*folder.glob("tokenizer*"), folder / "config.json", folder / "model.safetensors"]:
        file.rename(folder / "0_Transformer" / file.name)
    (folder / "sentence_bert_config.json").rename(
        folder / "0_Transformer/sentence_bert_config.json"
    )
    (folder / "modules.json").write_text(json.dumps(modules))
    assert locate_weights(EncoderSpec(str(folder))) == folder
    expected = encode(networks["BertModel"], TEXTS, "cls")
    np.testing.assert_allclose(encode(folder, TEXTS), expected, atol=1e-6)


def test_a_pipeline_of_word_vectors(tmp_path: Path) -> None:
    words = StaticEmbedding(word_tokenizer().backend_tokenizer, embedding_dim=7)
    SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path))
    ours = encode(tmp_path, TEXTS)
    np.testing.assert_allclose(ours, SentenceTransformer(str(tmp_path)).encode(TEXTS), atol=1e-6)


def test_a_pickled_part_is_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    folder = _save_pipeline(tmp_path / "p", networks["BertModel"], Dense(16, 5))
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ConfigError, match="2_Dense holds pickled weights, which are not loaded"):
        encode(folder, TEXTS)


def test_code_of_its_own_is_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    folder = _save_pipeline(tmp_path / "p", networks["BertModel"])
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "own_code.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        ConfigError, match="names 'own_code.Pooling', code of its own, which is not"
    ):
        encode(folder, TEXTS)
    assert encode(folder, TEXTS, "mean").shape == (4, 16)


def _without_padding_and_end(folder: Path) -> None:
    save_network(folder, "LlamaModel", pad_token=None, eos_token=None)


def _of_images(folder: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, intermediate_size=32, image_size=8, patch_size=4)
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor().save_pretrained(folder)


def _of_an_unknown_kind(folder: Path) -> None:
    save_network(folder, "BertModel")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mystery"}))


def _with_code_of_its_own(folder: Path) -> None:
    _of_an_unknown_kind(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this code ran')")


def _without_tokenizer(folder: Path) -> None:
    save_network(folder, "BertModel")
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _with_anothers_tokenizer(folder: Path) -> None:
    save_network(folder, "Qwen2Model")
    word_tokenizer().save_pretrained(folder)


def _with_too_many_words(folder: Path) -> None:
    save_network(folder, "BertModel")
    byte_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            _without_padding_and_end,
            "neither a padding token nor an end token .* name one as pad_tok",
        ),
        (_of_images, "cannot serve as a text encoder: no tokenizer"),
        (_of_an_unknown_kind, "cannot serve as a text encoder: ValueError: .*mystery"),
        (_with_code_of_its_own, "cannot serve as a text encoder: ValueError: .*custom code"),
        (_without_tokenizer, "holds no file of its tokenizer, tokenizer.json or vocab.txt; save"),
        (_with_anothers_tokenizer, "a Qwen2Tokenizer, makes no token of 'some text'"),
        (_with_too_many_words, "cannot serve as a text encoder: IndexError: index out of range"),
    ],
)
def test_what_cannot_serve_says_why(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        encode(tmp_path, TEXTS)
    assert str(tmp_path) in str(caught.value)
