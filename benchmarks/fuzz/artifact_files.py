"""Targets: what training writes and others read."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.shapes import damaged, json_documents, tensor_files
from benchmarks.fuzz.target import Target, file_target, write

_ITEMS = [f"i{n}" for n in range(6)]
_SMALL = {
    "encoder": "tfidf", "text_size": 4, "hidden_size": 8, "n_layers": 1, "n_heads": 2, "inner_size": 8,
    "MAX_ITEM_LIST_LENGTH": 4, "show_progress": False, "use_gpu": False, "epochs": 1,
}  # fmt: skip


def index(folder: Path) -> Target:
    """``artifact.json``."""
    path = _artifact(folder)
    return file_target(path / "artifact.json", lambda: _rank(path), json_documents)


def items(folder: Path) -> Target:
    """``items.json``, whose hash stands in ``artifact.json`` whatever it holds."""
    path = _artifact(folder)
    return file_target(path / "items.json", lambda: _rehashed(path), json_documents)


def weights(stored: str) -> Callable[[Path], Target]:
    """``model.safetensors`` with the item matrix stored in one of the ways, hashed anew."""

    def target(folder: Path) -> Target:
        path = _artifact(folder, stored)
        return file_target(path / "model.safetensors", lambda: _rehashed(path), tensor_files)

    return target


def stale(folder: Path) -> Target:
    """Any of the three files with the hashes as they were: the last byte tells which."""
    path = _artifact(folder)
    names = ("artifact.json", "items.json", "model.safetensors")
    valid = {name: (path / name).read_bytes() for name in names}

    def read(data: bytes) -> None:
        name = names[data[-1] % 3] if data else names[0]
        write(path / name, data[:-1])
        try:
            _rank(path)
        finally:
            write(path / name, valid[name])

    seeds = [valid[name] + bytes([number]) for number, name in enumerate(names)]
    return Target(read, seeds, st.one_of(*map(damaged, seeds)))


def explanation_index(folder: Path) -> Target:
    """``explanation.json``."""
    path = _trained(folder)
    return file_target(path / "explanation.json", lambda: _explain(path), json_documents)


def explanation_tensors(folder: Path) -> Target:
    """``explanation.safetensors``, hashed anew."""
    path = _trained(folder)

    def read() -> None:
        about = json.loads((path / "explanation.json").read_text(encoding="utf-8"))
        about["sha256"] = _sha256(path / "explanation.safetensors")
        write(path / "explanation.json", json.dumps(about).encode())
        _explain(path)

    return file_target(path / "explanation.safetensors", read, tensor_files)


def training_state(folder: Path) -> Target:
    """``training.safetensors``, from which a challenger starts."""
    path = _trained(folder)
    config, loaders, dataset = _data(folder)
    from recbole_llm.model import LLMSeqRec
    from recbole_llm.warm_start import start_warm

    model, tokens = LLMSeqRec(config, loaders[0]._dataset), dataset.item_tokens()
    return file_target(
        path / "training.safetensors", lambda: start_warm(model, tokens, path), tensor_files
    )


def checkpoint(folder: Path) -> Target:
    """A checkpoint, gone on with."""
    config, loaders, _ = _data(folder)
    trainer = _after_an_epoch(config, loaders, folder)
    trainer._save_checkpoint(0, verbose=False)
    path = Path(trainer.saved_model_file)
    return file_target(path, lambda: trainer.resume_checkpoint(str(path)), tensor_files)


def unfinished(folder: Path) -> Target:
    """What a training that was killed goes on from."""
    config, loaders, _ = _data(folder)
    from recbole_llm.best_weights import BestWeights
    from recbole_llm.resume import Unfinished

    trainer = _after_an_epoch(config, loaders, folder)
    best = BestWeights(trainer.model, True, None)
    best(0, 0.5)
    config["resume_dir"] = str(folder / "resume")
    state = Unfinished(config, *loaders[:2])
    state.save(trainer, best, 0)

    def read() -> None:
        state.restore(trainer, best)
        best.restore(1)

    return file_target(folder / "resume" / "unfinished.safetensors", read, tensor_files)


def compressed_index(folder: Path) -> Target:
    """``compressed.json`` of a compressed encoder."""
    _compressed(folder)
    return file_target(folder / "compressed.json", lambda: _encode(folder), json_documents)


def compressed_tokenizer(folder: Path) -> Target:
    """``tokenizer.json`` of a compressed encoder."""
    _compressed(folder)
    return file_target(folder / "tokenizer.json", lambda: _encode(folder), json_documents)


def compressed_network(folder: Path) -> Target:
    """``encoder.onnx`` of a compressed encoder."""
    _compressed(folder)
    return file_target(folder / "encoder.onnx", lambda: _encode(folder))


def modules(folder: Path) -> Target:
    """``modules.json`` of a sentence encoder's folder."""
    from recbole_llm.text_encoder import _check_modules

    content = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
    ]
    path = folder / "modules.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return file_target(path, lambda: _check_modules(folder), json_documents)


def pretrain_settings(folder: Path) -> Target:
    """``settings.json`` of a pre-training that goes on."""
    from recbole_llm.pretrain.loop import _last_checkpoint

    about = {"objective": "mlm", "options": {"epochs": 3.0}, "rows": 7}
    path = folder / "settings.json"
    path.write_text(json.dumps(about), encoding="utf-8")
    return file_target(path, lambda: _last_checkpoint(folder, about), json_documents)


def text_cache(folder: Path) -> Target:
    """The SQLite file of text vectors."""
    import numpy as np

    from recbole_llm.encoder import EncoderSpec
    from recbole_llm.text_cache import encode_cached

    model, path = folder / "model", folder / "cache.sqlite"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"")
    spec, texts = EncoderSpec(str(model)), ["a film", "a book", "a tune"]

    class Encoder:
        n_cut = n_empty = 0

        def encode(self, texts: list[str]) -> Any:
            return np.ones((len(texts), 4), np.float32)

    def read() -> None:
        encode_cached(texts, spec, path, "cpu", load=lambda *_: Encoder())  # type: ignore[arg-type, return-value]

    read()
    return file_target(path, read)


def _artifact(folder: Path, stored: str = "float32") -> Path:
    import torch

    from recbole_llm.layers import SequenceConfig, SequenceEncoder
    from recbole_llm.scoring import Artifact, write_artifact

    shape = SequenceConfig(
        hidden_size=8, n_layers=1, n_heads=2, inner_size=8, max_seq_length=3, hidden_dropout_prob=0.1,
        attn_dropout_prob=0.1, hidden_act="gelu", layer_norm_eps=1e-12, initializer_range=0.5,
        score="cosine", temperature=0.07, repeat_lags=2,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_num_threads(1)
    matrix = torch.randn(len(_ITEMS) + 1, 8)
    matrix[0] = 0
    artifact = Artifact(
        shape, SequenceEncoder(shape).state_dict(), {"weight": torch.zeros(2)}, matrix,
        torch.zeros(len(_ITEMS) + 1), _ITEMS, [f"Film {item}" for item in _ITEMS],
        {"data_cut": "2024-05-01", "options": {"adaptor": "linear"}}, stored=stored,
    )  # fmt: skip
    return write_artifact(artifact, folder)


def _after_an_epoch(config: Any, loaders: Any, folder: Path) -> Any:
    from recbole_llm.model import LLMSeqRec
    from recbole_llm.trainer import LLMSeqRecTrainer

    config["checkpoint_dir"] = str(folder)
    trainer = LLMSeqRecTrainer(config, LLMSeqRec(config, loaders[0]._dataset))
    trainer.logger = logging.Logger("nowhere")  # RecBole's is the root, which others use
    trainer.train_loss_dict[0] = trainer._train_epoch(loaders[0], 0)
    return trainer


def _rank(path: Path) -> None:
    from recbole_llm.scoring import load_scorer

    scorer = load_scorer(path)
    scorer.top_k([_ITEMS[:2]], 2)


def _rehashed(path: Path) -> None:
    about = json.loads((path / "artifact.json").read_text(encoding="utf-8"))
    about["files"] = {name: _sha256(path / name) for name in ("model.safetensors", "items.json")}
    write(path / "artifact.json", json.dumps(about).encode())
    _rank(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _data(folder: Path) -> tuple[Any, Any, Any]:
    from recbole_llm.train import build_config, build_data

    data = folder / "cycle"
    data.mkdir(exist_ok=True)
    events = [f"u{u}\ti{(u + n) % 6}\t{n}" for u in range(6) for n in range(4 + u % 2)]
    head = "user_id:token\titem_id:token\ttimestamp:float"
    (data / "cycle.inter").write_text("\n".join([head, *events]) + "\n")
    titles = [f"{item}\tFilm {item} of {'ab'[n % 2]}ll" for n, item in enumerate(_ITEMS)]
    (data / "cycle.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles]) + "\n")
    config = build_config("LLMSeqRec", "cycle", None, {**_SMALL, "data_path": str(folder)})
    dataset, loaders = build_data(config)
    return config, loaders, dataset


def _trained(folder: Path) -> Path:
    """An artifact with what lies beside it, of an untrained model."""
    config, loaders, dataset = _data(folder)
    from recbole_llm.export import export_artifact
    from recbole_llm.model import LLMSeqRec

    return export_artifact(
        LLMSeqRec(config, loaders[0]._dataset).eval(), dataset, config, {}, folder / "artifacts"
    )


def _explain(path: Path) -> None:
    import torch

    from recbole_llm.item_parts import read_parts
    from recbole_llm.scoring import load_artifact

    artifact = load_artifact(path)
    parts = read_parts(path, artifact)
    parts.of(torch.tensor([1, 2]), artifact.item_matrix)
    parts.means(artifact.item_matrix)


def _compressed(folder: Path) -> None:
    """An encoder of one table: a token's vector is its row."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    from recbole_llm.onnx_encoder import NETWORK, TOKENIZER, CompressedEncoder

    words = ["[UNK]", "a", "film"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER))
    table = numpy_helper.from_array(np.ones((3, 4), np.float32), "table")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("ReduceMean", ["rows"], ["vector"], axes=[1], keepdims=0),
        ],
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, 4])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / NETWORK))
    CompressedEncoder([1], [], 16, "tiny", [0], 32, 4).write(folder)


def _encode(folder: Path) -> None:
    from recbole_llm.encoder import find_encoder
    from recbole_llm.onnx_encoder import OnnxEncoder

    spec = find_encoder(str(folder))
    OnnxEncoder(folder, spec.max_tokens, 1).encode(["a film", "a book"])


TARGETS: dict[str, Callable[[Path], Target]] = {
    "artifact.json": index,
    "items.json": items,
    "model.safetensors": weights("float32"),
    "model.safetensors in int8": weights("int8"),
    "model.safetensors in int6": weights("int6"),
    "artifact with its hashes": stale,
    "explanation.json": explanation_index,
    "explanation.safetensors": explanation_tensors,
    "training.safetensors": training_state,
    "checkpoint": checkpoint,
    "unfinished training": unfinished,
    "compressed.json": compressed_index,
    "tokenizer.json": compressed_tokenizer,
    "encoder.onnx": compressed_network,
    "modules.json": modules,
    "settings.json": pretrain_settings,
    "text cache": text_cache,
}
