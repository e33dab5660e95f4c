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
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recbole_llm.encoder import EncoderSpec, locate_weights
from recbole_llm.errors import ConfigError
from recbole_llm.lora import add_lora, take_out_dropout
from recbole_llm.scoring import topk
from recbole_llm.text_encoder import (
    TextEncoder,
    embed_features,
    features_of,
    load_sentence_transformer,
)

TEXTS = ["film", "the film of a cycle", "a", "nobody has met the film"]
LONG = "film of the cycle " * 20
"""80 tokens; networks with a table of positions have 26 rows in it."""
_WORDS = "<s> <pad> </s> <unk> film of the cycle a nobody has met".split()  # noqa: SIM905
_PAD = 1
_SIZES: dict[str, Any] = {
    "vocab_size": len(_WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "pad_token_id": _PAD, "max_position_embeddings": 26,
}  # fmt: skip
_GROUPED = {**_SIZES, "num_key_value_heads": 1, "head_dim": 8}
_T5: dict[str, Any] = {
    "vocab_size": len(_WORDS), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2,
    "num_heads": 2, "pad_token_id": _PAD,
}  # fmt: skip
_NETWORKS: dict[str, Callable[[], Any]] = {
    "BertModel": lambda: transformers.BertConfig(**_SIZES),
    "RobertaModel": lambda: transformers.RobertaConfig(**_SIZES),
    "XLMRobertaModel": lambda: transformers.XLMRobertaConfig(**_SIZES),
    "MPNetModel": lambda: transformers.MPNetConfig(**_SIZES),
    "DebertaV2Model": lambda: transformers.DebertaV2Config(
        **_SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False
    ),
    "ModernBertModel": lambda: transformers.ModernBertConfig(
        **_SIZES, local_attention=4, bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2
    ),
    "T5Model": lambda: transformers.T5Config(**_T5),
    "BartModel": lambda: transformers.BartConfig(
        vocab_size=len(_WORDS), d_model=16, encoder_layers=2, decoder_layers=2, pad_token_id=_PAD,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=26,
    ),
    "GPT2Model": lambda: transformers.GPT2Config(
        vocab_size=len(_WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=26,
        bos_token_id=0, eos_token_id=2,
    ),
    "OPTModel": lambda: transformers.OPTConfig(
        **{k: v for k, v in _SIZES.items() if k != "intermediate_size"}, ffn_dim=32,
        word_embed_proj_dim=16,
    ),
    "LlamaModel": lambda: transformers.LlamaConfig(**_GROUPED),
    "MistralModel": lambda: transformers.MistralConfig(**_GROUPED, sliding_window=4),
    "Qwen2Model": lambda: transformers.Qwen2Config(**{**_GROUPED, "vocab_size": 300}),
    "Qwen3Model": lambda: transformers.Qwen3Config(**_GROUPED),
    "GemmaModel": lambda: transformers.GemmaConfig(**_GROUPED),
}  # fmt: skip
_CHAT = "{% for m in messages %}<s> nobody has met {{ m['content'] }} </s>{% endfor %}"


def _tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """One token a word, nothing around them."""
    backend = Tokenizer(models.WordLevel({w: n for n, w in enumerate(_WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", **settings},
    )


def _bytes(**settings: Any) -> transformers.Qwen2Tokenizer:
    """One token a byte: transformers lets a Qwen2 have no other kind of tokenizer."""
    signs = ["<unk>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return transformers.Qwen2Tokenizer(
        vocab={sign: n for n, sign in enumerate(signs)}, merges=[],
        **{"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", **settings},
    )  # fmt: skip


def _save(folder: Path, name: str, **tokenizer: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, name)(_NETWORKS[name]()).save_pretrained(folder)
    (_bytes if name == "Qwen2Model" else _tokenizer)(**tokenizer).save_pretrained(folder)
    return folder


def _encode(
    folder: Path, texts: list[str], pooling: str | None = None, **settings: Any
) -> NDArray[np.float32]:
    return TextEncoder(folder, EncoderSpec(str(folder), pooling, **settings), "cpu").encode(texts)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("networks")
    return {name: _save(root / name, name) for name in _NETWORKS}


def _by_hand(folder: Path, text: str, pooling: str) -> NDArray[np.float32]:
    network = transformers.AutoModel.from_pretrained(folder)
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        states = network.eval()(input_ids=tokens["input_ids"]).last_hidden_state[0]
    rows = {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}
    return np.asarray(rows[pooling])


@pytest.mark.parametrize("name", list(_NETWORKS))
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
    np.testing.assert_array_equal(_encode(left, TEXTS, pooling), together)


@pytest.mark.parametrize("name", list(_NETWORKS))
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
    chat = _save(tmp_path, "LlamaModel", chat_template=_CHAT)
    np.testing.assert_array_equal(_encode(chat, TEXTS), _encode(networks["LlamaModel"], TEXTS))


@pytest.mark.parametrize("name", list(_NETWORKS))
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


@pytest.mark.parametrize("name", list(_NETWORKS))
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


@pytest.mark.parametrize("name", ["GPT2Model", "LlamaModel"])
def test_a_decoder_without_a_padding_token(
    networks: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = _save(tmp_path, name, pad_token=None)
    np.testing.assert_array_equal(
        _encode(folder, TEXTS, "lasttoken"), _encode(networks[name], TEXTS, "lasttoken")
    )


def test_bfloat16_products_stay_near(
    networks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for has_unit in (True, False):
        unit = "avx512_bf16" if has_unit else None
        monkeypatch.setattr(topk, "bfloat16_unit", lambda unit=unit: unit)
        half, whole = (
            _encode(networks["BertModel"], TEXTS, dtype=dtype) for dtype in ("bfloat16", "float32")
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
            vectors.append(_encode(networks["BertModel"], texts, batch_size=1, max_tokens=16))
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
    ours = _encode(folder, [*TEXTS, LONG])
    assert ours.shape == (5, 5)
    theirs = SentenceTransformer(str(folder), device="cpu").encode([*TEXTS, LONG])
    assert _cosines(ours, theirs).min() >= 0.9999
    assert _encode(folder, TEXTS, "mean").shape == (4, 16)  # a pooling asked for leaves it out


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
    expected = _encode(networks["BertModel"], TEXTS, "cls")
    np.testing.assert_allclose(_encode(folder, TEXTS), expected, atol=1e-6)


def test_a_pipeline_of_word_vectors(tmp_path: Path) -> None:
    words = StaticEmbedding(_tokenizer().backend_tokenizer, embedding_dim=7)
    SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path))
    ours = _encode(tmp_path, TEXTS)
    np.testing.assert_allclose(ours, SentenceTransformer(str(tmp_path)).encode(TEXTS), atol=1e-6)


def test_a_pickled_part_is_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    folder = _save_pipeline(tmp_path / "p", networks["BertModel"], Dense(16, 5))
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ConfigError, match="2_Dense holds pickled weights, which are not loaded"):
        _encode(folder, TEXTS)


def test_code_of_its_own_is_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    folder = _save_pipeline(tmp_path / "p", networks["BertModel"])
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "own_code.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        ConfigError, match="names 'own_code.Pooling', code of its own, which is not"
    ):
        _encode(folder, TEXTS)
    assert _encode(folder, TEXTS, "mean").shape == (4, 16)


def _without_padding_and_end(folder: Path) -> None:
    _save(folder, "LlamaModel", pad_token=None, eos_token=None)


def _of_images(folder: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, intermediate_size=32, image_size=8, patch_size=4)
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor().save_pretrained(folder)


def _of_an_unknown_kind(folder: Path) -> None:
    _save(folder, "BertModel")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mystery"}))


def _with_code_of_its_own(folder: Path) -> None:
    _of_an_unknown_kind(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this code ran')")


def _without_tokenizer(folder: Path) -> None:
    _save(folder, "BertModel")
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _with_anothers_tokenizer(folder: Path) -> None:
    _save(folder, "Qwen2Model")
    _tokenizer().save_pretrained(folder)


def _with_too_many_words(folder: Path) -> None:
    _save(folder, "BertModel")
    _bytes().save_pretrained(folder)


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
        _encode(tmp_path, TEXTS)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", list(_NETWORKS))
def test_adapters_learn_on_each(networks: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = networks[name]
    model = load_sentence_transformer(folder, EncoderSpec(str(folder), "mean"), "cpu")
    before = torch.from_numpy(_encode(folder, TEXTS, "mean"))
    adapters = add_lora(model, 2, "all-linear")
    trained = [value for value in adapters.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    vectors = model(model.preprocess(TEXTS))["sentence_embedding"]
    torch.testing.assert_close(vectors, before, atol=1e-4, rtol=1e-4)
    vectors.square().sum().backward()
    optimizer.step()
    adapters.save_pretrained(tmp_path)
    after = _encode(folder, TEXTS, "mean", adapter=str(tmp_path))
    assert abs(after - before.numpy()).max() > 1e-4
