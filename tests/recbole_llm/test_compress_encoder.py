import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from recbole_llm import compress_encoder as module
from recbole_llm.compress_encoder import compress_encoder
from recbole_llm.encoder import EncoderSpec, find_encoder, fingerprint, locate_weights
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.text_cache import encode_cached
from recbole_llm.text_encoder import TextEncoder
from tests.data import CYCLE, write_atomic

TEXTS = [
    f"film {item} of the cycle {' '.join(CYCLE[: n % 5])}".strip() for n, item in enumerate(CYCLE)
]
TEXTS += ["a", "nobody has met the film"]


@pytest.fixture(scope="module")
def deep_bert(tmp_path_factory: pytest.TempPathFactory, tiny_encoders: dict[str, Path]) -> Path:
    """A network of four layers, which says more of a text with each."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("deep") / "bert"
    shutil.copytree(tiny_encoders["bert"], folder)
    config = BertConfig.from_pretrained(folder, num_hidden_layers=4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_encoders: dict[str, Path]) -> Path:
    """``bert`` in int8."""
    return compress_encoder(
        str(tiny_encoders["bert"]), tmp_path_factory.mktemp("small") / "bert-int8"
    )


def _encode(name: str, texts: list[str] = TEXTS) -> Any:
    spec = find_encoder(name)
    return TextEncoder(locate_weights(spec), spec, "cpu").encode(texts)


def _cosines(a: Any, b: Any) -> Any:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_without_rounding_it_is_the_encoder(
    tiny_encoders: dict[str, Path], tmp_path: Path, architecture: str
) -> None:
    name = str(tiny_encoders[architecture])
    folder = compress_encoder(name, tmp_path / "same", bits=32)
    np.testing.assert_allclose(_encode(str(folder)), _encode(name), atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["same"]


def test_int8_says_nearly_the_same(tiny_encoders: dict[str, Path], small: Path) -> None:
    plain, read = _encode(str(tiny_encoders["bert"])), _encode(str(small))
    assert _cosines(plain, read).min() > 0.99
    assert np.abs(plain - read).max() > 1e-4  # it is rounded
    kinds = {node.op_type for node in onnx.load(small / "encoder.onnx").graph.node}
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= kinds


def test_a_vector_depends_on_its_own_text_alone(small: Path) -> None:
    together = _encode(str(small))
    alone = np.concatenate([_encode(str(small), [text]) for text in TEXTS])
    np.testing.assert_array_equal(together, alone)


def test_threads_change_no_vector(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _encode(str(small))
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    np.testing.assert_array_equal(_encode(str(small)), one)


def test_long_texts_are_cut_where_the_encoder_cuts_them(
    tiny_encoders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"model: {tiny_encoders['qwen3']}\npooling: lasttoken\nmax_tokens: 5\n"
    )
    name = str(tmp_path / "mine.yaml")
    folder = compress_encoder(name, tmp_path / "small", bits=32)
    spec = find_encoder(str(folder))
    assert spec == EncoderSpec(str(folder), max_tokens=5)
    texts = ["i0 i1 i2 i3 i4 i5 i6", "i0 i1 i2 i3 i4 i7"]
    vectors = _encode(str(folder), texts)
    np.testing.assert_allclose(vectors, _encode(name, texts), atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_pipeline_goes_along(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(tiny_encoders["bert"]))
    pooling = Pooling(transformer.get_embedding_dimension(), "cls")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    model.save(str(tmp_path / "pipeline"))
    folder = compress_encoder(str(tmp_path / "pipeline"), tmp_path / "small", bits=32)
    vectors = _encode(str(folder))
    np.testing.assert_allclose(vectors, _encode(str(tmp_path / "pipeline")), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("n_layers", "total", "kept"),
    [(1, 6, [5]), (2, 6, [0, 5]), (3, 6, [0, 2, 5]), (5, 6, [0, 1, 2, 4, 5]), (4, 4, [0, 1, 2, 3])],
)
def test_layers_are_spread_and_end_with_the_last(
    n_layers: int, total: int, kept: list[int]
) -> None:
    assert module.spread_layers(n_layers, total) == kept


def test_layers_that_stay(deep_bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    n_layers, kept = 3, [0, 2, 3]
    folder = compress_encoder(str(deep_bert), tmp_path / "small", n_layers=n_layers, bits=32)
    assert json.loads((folder / "compressed.json").read_text())["layers"] == kept
    # The same by hand: an encoder that never had the others.
    by_hand = tmp_path / "by-hand"
    shutil.copytree(deep_bert, by_hand)
    config = json.loads((by_hand / "config.json").read_text())
    (by_hand / "config.json").write_text(json.dumps({**config, "num_hidden_layers": n_layers}))
    left = {}
    for key, value in load_file(by_hand / "model.safetensors").items():
        head, layer, rest = key.partition("encoder.layer.")
        number, _, tail = rest.partition(".")
        if not layer:
            left[key] = value
        elif int(number) in kept:
            left[f"{head}{layer}{kept.index(int(number))}.{tail}"] = value
    save_file(left, by_hand / "model.safetensors", {"format": "pt"})
    np.testing.assert_allclose(_encode(str(folder)), _encode(str(by_hand)), atol=1e-5)


def test_components_that_stay(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    name, titles = str(tiny_encoders["bert"]), {f"n{n}": text for n, text in enumerate(TEXTS)}
    items = write_atomic(tmp_path, "shop", {}, titles) / "shop.item"
    folder = compress_encoder(name, tmp_path / "small", bits=32, size=5, items=items)
    read, plain = _encode(str(folder)), _encode(name)
    assert read.shape == (len(TEXTS), 5)
    centred = (plain - plain.mean(0)).astype(np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)
    expected = centred @ directions[:, np.argsort(-values)[:5]]
    np.testing.assert_allclose(np.abs(read), np.abs(expected), atol=1e-4)  # signs are free
    rounded = compress_encoder(name, tmp_path / "int8", size=5, items=items)
    assert _cosines(read, _encode(str(rounded))).mean() > 0.99
    with pytest.raises(DataError, match="14 different texts, 15 components need as many"):
        compress_encoder(name, tmp_path / "more", size=15, items=items)
    with pytest.raises(ConfigError, match="has 16 components, 17 were to be kept"):
        compress_encoder(name, tmp_path / "more", size=17, items=items)


def test_the_cache_tells_it_from_the_encoder(
    tiny_encoders: dict[str, Path], small: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.sqlite"
    plain = encode_cached(TEXTS, find_encoder(str(tiny_encoders["bert"])), cache, "cpu")
    read = encode_cached(TEXTS, find_encoder(str(small)), cache, "cpu")
    assert not np.array_equal(plain, read)
    np.testing.assert_array_equal(read, _encode(str(small)))
    spec, other = find_encoder(str(small)), tmp_path / "other"
    assert fingerprint(small, spec) != fingerprint(small, EncoderSpec("x", max_tokens=5))
    shutil.copytree(small, other)
    assert fingerprint(other, spec) == fingerprint(small, spec)
    (other / "encoder.onnx").write_bytes((other / "encoder.onnx").read_bytes() + b" ")
    assert fingerprint(other, spec) != fingerprint(small, spec)


def test_compressed_twice(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither trained nor compressed again; .*bert'"):
        compress_encoder(str(small), tmp_path / "smaller")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 4}, "bits of a weight must be 8 or 32, got 4"),
        ({"n_layers": 0}, "layers must be at least 1, got 0"),
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": 4}, "components are fitted to texts: give both"),
        ({"size": 4, "items": Path("no.item")}, "no .item file at no.item"),
        ({"target": Path()}, "exists; name a new folder"),
        ({"target": Path("a+b")}, "has a plus sign"),
    ],
)
def test_bad_arguments_come_before_any_work(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(module, "locate_weights", lambda _: pytest.fail("worked"))
    with pytest.raises(ConfigError, match=message):
        compress_encoder("minilm", **{"target": Path("new"), **arguments})


def test_more_layers_than_there_are(tiny_encoders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 1 layers, 2 were to be kept"):
        compress_encoder(str(tiny_encoders["bert"]), tmp_path / "small", n_layers=2)


def test_a_full_disk_leaves_nothing(
    tiny_encoders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        arguments[4].write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "export_onnx", full)
    with pytest.raises(OSError, match="No space left"):
        compress_encoder(str(tiny_encoders["bert"]), tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


def test_a_compressed_encoder_pools_by_itself(small: Path) -> None:
    with pytest.raises(ConfigError, match="its network pools by itself; .* got 'cls'"):
        locate_weights(EncoderSpec(str(small), pooling="cls"))


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json"])
def test_damaged_files(small: Path, tmp_path: Path, name: str) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(small, damaged)
    content = (damaged / name).read_bytes()
    (damaged / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="damaged cannot be read: .* compress the encoder again"):
        _encode(str(damaged))


def test_of_a_newer_format(small: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(small, newer)
    about = json.loads((newer / "compressed.json").read_text())
    (newer / "compressed.json").write_text(json.dumps({**about, "format_version": 2}))
    with pytest.raises(ConfigError, match="has format 2, this version reads 1"):
        find_encoder(str(newer))
    del about["before"]
    (newer / "compressed.json").write_text(json.dumps(about))
    with pytest.raises(
        ConfigError, match="is damaged: expected before as list, got nothing; compress"
    ):
        find_encoder(str(newer))
