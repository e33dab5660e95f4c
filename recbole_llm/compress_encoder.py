"""Make a pretrained encoder smaller and faster on a CPU: fewer layers, fewer components, int8.

What comes out is a folder that serves as ``encoder`` like any other, see ``onnx_encoder``.
"""

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recbole_llm.encoder import find_encoder, locate_weights
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.item_text import read_text_columns, render_texts
from recbole_llm.onnx_encoder import (
    NETWORK,
    TOKENIZER,
    CompressedEncoder,
    OnnxEncoder,
    TokenFrame,
)
from recbole_llm.onnx_export import check_onnx, export_onnx
from recbole_llm.text_encoder import load_sentence_transformer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_log = logging.getLogger(__name__)
_PROBES = (
    "film",
    "A film that nobody has met (2024)",
    'Stainless steel bolts, 1/4"-20 x 2.5 in., pack of 100; näher an 5 €',
    "The first words of a long description are read and the others are cut off. " * 60,
)
"""What the network in ONNX reads beside the encoder before it is announced."""
_TOLERANCE = 1e-4
"""By how much an entry in float32 may be off, of the largest entry: sums have another order."""
_FITTED = 1024
"""Texts that principal components are fitted to at least, spread over those given."""


def compress_encoder(
    name: str,
    target: Path,
    n_layers: int | None = None,
    bits: int = 8,
    size: int | None = None,
    items: Path | None = None,
) -> Path:
    """Write an encoder anew, smaller, whole or not at all.

    Weights and activations in int8 are ONNX Runtime's dynamic quantisation: weights by output channel,
    activations with one scale for a text and matrix.

    Args:
        name: as in the config key ``encoder``, one alone.
        target: the folder to make.
        n_layers: layers to keep, spread evenly, the last always among them; None for all. Vectors are
            made for the last layer's taste: without it they mean little, without some before it they
            still do.
        bits: of a weight, 8 or 32.
        size: principal components to keep of each vector; None for all entries as they are.
        items: a ``.item`` file whose texts the components are fitted to.
    Returns:
        ``target``.
    Raises:
        ConfigError: a bad argument, ``target`` exists, the encoder is compressed already or cannot be
            told in ONNX.
        DataError: ``items`` has fewer texts than components.
    """
    started = time.monotonic()
    _check(target, n_layers, bits, size, items)
    spec = find_encoder(name)
    path = locate_weights(spec)
    model = load_sentence_transformer(path, spec, "cpu")
    if not hasattr(model[0], "model") or not hasattr(model.tokenizer, "backend_tokenizer"):
        raise ConfigError(
            f"encoder {name!r} has no transformer or no tokenizer of the library tokenizers; it cannot "
            "be compressed"
        )
    layers = _keep_layers(model, name, n_layers)
    if size is not None and items is not None:
        _keep_components(model, name, size, items)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
    try:
        export_onnx(
            _OneText(model).eval(),
            {"input_ids": torch.ones(1, 7, dtype=torch.int64)},
            {"input_ids": (1,)},
            "vectors",
            staging / NETWORK,
        )
        model.tokenizer.backend_tokenizer.save(str(staging / TOKENIZER))
        before, after = _frame(model, name, staging / TOKENIZER, spec.max_tokens)
        plain = np.asarray(model.encode(list(_PROBES), show_progress_bar=False))
        about = CompressedEncoder(
            before, after, spec.max_tokens, name, layers, bits, plain.shape[1]
        )
        about.write(staging)
        _check_exact(plain, _read_probes(staging, spec.max_tokens), name)
        if bits == 8:
            _quantise(staging)
        cosines = _cosines(plain, _read_probes(staging, spec.max_tokens))
        os.chmod(staging, 0o755)
        os.rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _log.info(
        "encoder %s: layers %s, %d components, %d bits, %.1f MB in %s; cosine with it before the "
        "rounding from %.3f; %.0f s", name, layers, about.size, bits,
        sum(file.stat().st_size for file in target.iterdir()) / 1e6, target, cosines.min(),
        time.monotonic() - started,
    )  # fmt: skip
    return target


def _check(
    target: Path, n_layers: int | None, bits: int, size: int | None, items: Path | None
) -> None:
    check_onnx()
    if bits not in (8, 32):
        raise ConfigError(f"bits of a weight must be 8 or 32, got {bits}")
    for option, value in (("layers", n_layers), ("size", size)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} must be at least 1, got {value}")
    if (size is None) != (items is None):
        raise ConfigError(
            "components are fitted to texts: give both, a size and a .item file with texts, or neither"
        )
    if items is not None and not items.is_file():
        raise ConfigError(f"no .item file at {items}")
    if "+" in target.name:
        raise ConfigError(f"{target} has a plus sign, which joins encoders; name another folder")
    if target.exists():
        raise ConfigError(f"{target} exists; name a new folder, or delete it")


def spread_layers(n_layers: int, total: int) -> list[int]:
    """Which of ``total`` layers to keep: evenly spread, the last always among them."""
    return [int(number) for number in np.linspace(total - 1, 0, n_layers).round()[::-1]]


def _keep_layers(model: "SentenceTransformer", name: str, n_layers: int | None) -> list[int]:
    """Leave some of the network's layers, in place, and say which."""
    network: Any = model[0].model
    total = getattr(network.config, "num_hidden_layers", 0)
    stacks = [
        (parent, place, child)
        for parent in network.modules()
        for place, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == total
    ]
    if n_layers is None:
        return list(range(total))
    if len(stacks) != 1:
        raise ConfigError(
            f"encoder {name!r}: of {type(network).__name__} it cannot be told which are the {total} "
            "layers; keep all of them"
        )
    if n_layers > total:
        raise ConfigError(f"encoder {name!r} has {total} layers, {n_layers} were to be kept")
    kept = spread_layers(n_layers, total)
    parent, place, stack = stacks[0]
    setattr(parent, place, nn.ModuleList(stack[number] for number in kept))
    network.config.num_hidden_layers = n_layers
    return kept


def _keep_components(model: "SentenceTransformer", name: str, size: int, items: Path) -> None:
    """Put a projection to the texts' principal components behind an encoder, in place."""
    from sentence_transformers.sentence_transformer.modules import Dense
    from sklearn.decomposition import PCA

    texts = list(
        dict.fromkeys(render_texts(read_text_columns(items, "item_id", "\t", "utf-8"), None))
    )
    texts = [text for text in texts if text]
    width = model.get_embedding_dimension()
    if width is None or size > width:
        raise ConfigError(f"encoder {name!r} has {width} components, {size} were to be kept")
    if size > len(texts):
        raise DataError(f"{items} has {len(texts)} different texts, {size} components need as many")
    n_fitted = min(len(texts), max(_FITTED, 4 * size))
    spread = np.linspace(0, len(texts) - 1, n_fitted).astype(int)
    vectors = model.encode([texts[number] for number in spread], show_progress_bar=False)
    pca = PCA(n_components=size, svd_solver="full").fit(vectors.astype(np.float64))
    projection = Dense(width, size, activation_function=nn.Identity())
    weight = torch.from_numpy(pca.components_)  # (size, E)
    with torch.no_grad():
        projection.linear.weight.copy_(weight)
        projection.linear.bias.copy_(-weight @ torch.from_numpy(pca.mean_))
    model.append(projection)


class _OneText(nn.Module):
    """An encoder as one text without padding meets it: there is nothing to mask."""

    def __init__(self, model: "SentenceTransformer") -> None:
        super().__init__()
        transformer, *rest = model
        self.network: Any = transformer.model
        self.rest = nn.ModuleList(rest)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(1, T) int64 to (1, E)."""
        states = self.network(input_ids=input_ids, attention_mask=None).last_hidden_state
        features: dict[str, Tensor] = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "token_embeddings": states,
        }
        for module in self.rest:
            features = module(features)
        return features["sentence_embedding"]


def _frame(
    model: "SentenceTransformer", name: str, tokenizer: Path, max_tokens: int
) -> tuple[list[int], list[int]]:
    """What stands before and after every text's tokens: special ones, or all that a chat says.

    Raises:
        ConfigError: texts are not read that way.
    """
    whole, own = _ids(model, _PROBES[1]), TokenFrame(tokenizer, [], [], max_tokens)(_PROBES[1])
    starts = [at for at in range(len(whole)) if whole[at : at + len(own)] == own]
    if starts:
        before, after = whole[: starts[0]], whole[starts[0] + len(own) :]
        frame = TokenFrame(tokenizer, before, after, max_tokens)
        if all(frame(text) == _ids(model, text) for text in _PROBES):
            return before, after
    raise ConfigError(
        f"encoder {name!r} does more to a text than to cut it and to put tokens around it, or its "
        f"max_tokens ({max_tokens}) leave no room; it cannot be compressed"
    )


def _ids(model: "SentenceTransformer", text: str) -> list[int]:
    ids: list[int] = model.preprocess([text])["input_ids"][0].tolist()
    return ids


def _quantise(folder: Path) -> None:
    """Put the network in int8 in the place of the one in float32."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    plain, small = folder / NETWORK, folder / "int8.onnx"
    network = onnx.load(plain, load_external_data=False)
    # Quantising turns matrices round and trips over the shapes that they had; it finds shapes itself.
    del network.graph.value_info[:]
    add_pre_process_metadata(network)  # or it warns that this was not done
    onnx.save(network, plain)
    quantize_dynamic(plain, small, per_channel=True, weight_type=QuantType.QInt8)
    for file in folder.glob(f"{NETWORK}*"):
        file.unlink()
    small.rename(plain)


def _read_probes(folder: Path, max_tokens: int) -> NDArray[np.float32]:
    return OnnxEncoder(folder, max_tokens, threads=1).encode(list(_PROBES))


def _check_exact(plain: NDArray[np.float32], read: NDArray[np.float32], name: str) -> None:
    off = float(np.abs(plain - read).max() / np.abs(plain).max())
    if not off <= _TOLERANCE:
        raise ConfigError(
            f"encoder {name!r}: in ONNX its vectors are off by {off:.2g} of their largest entry, over "
            f"{_TOLERANCE}; it cannot be compressed"
        )


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float32] = (a * b).sum(axis=1) / lengths
    return cosines
