"""Text encoders loaded safely, and run by sentence-transformers or, compressed, by ONNX Runtime."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_llm.encoder import PIPELINE, EncoderSpec, has_pipeline, weights_source
from recbole_llm.errors import ConfigError
from recbole_llm.json_files import check_record, is_list_of, read_json, told
from recbole_llm.onnx_encoder import OnnxEncoder, is_compressed, read_compressed

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor


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
        if has_pipeline(path, spec):
            _check_modules(path)
            model = SentenceTransformer(
                str(path), device=device, model_kwargs=model_kwargs, local_files_only=True
            )
        else:
            modules = _network_and_pooling(path, spec, model_kwargs)
            model = SentenceTransformer(modules=modules, device=device)
        # Each save, a checkpoint's too, would ask the hub for models of the folder's name.
        model.model_card_data.local_files_only = True
        _set_up_tokenizer(model, path, spec)
        if spec.adapter is not None:
            from recbole_llm.lora import load_lora

            load_lora(model, Path(spec.adapter))
        _try(model, spec)
    except LOAD_ERRORS as error:
        raise ConfigError(
            f"encoder {spec.model!r} cannot serve as a text encoder: {type(error).__name__}: {error}"
        ) from error
    return model


LOAD_ERRORS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError,
)  # fmt: skip
"""What transformers and a network raise over a folder that is not such an encoder's."""


def _network_and_pooling(path: Path, spec: EncoderSpec, model_kwargs: dict[str, Any]) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder, gguf = weights_source(path)
    transformer = Transformer(
        folder,
        model_kwargs={**gguf, **unpacked(gguf), **model_kwargs},
        processor_kwargs=dict(gguf),
        config_kwargs=dict(gguf),
    )
    # A chat model's text would be wrapped in a message, whose own words are most of a short text.
    transformer.modality_config.pop("message", None)
    # The weights are plain by now; as long as it takes them for packed, transformers saves none.
    if quantizer := getattr(transformer.model, "hf_quantizer", None):
        quantizer.remove_quantization_config(transformer.model)
    if transformer.config.is_encoder_decoder:  # the library has it without decoder for some alone
        transformer.model = transformer.model.get_encoder()
    return [transformer, Pooling(transformer.get_embedding_dimension(), spec.pooling or "mean")]


def unpacked(gguf: dict[str, Any]) -> dict[str, Any]:
    """Keywords of ``from_pretrained`` by which the weights of a GGUF file can be trained.

    Args:
        gguf: what ``weights_source`` says; nothing is added for a folder.
    """
    from transformers import GgufConfig

    return {"quantization_config": GgufConfig(dequantize=True)} if gguf else {}


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
    modules, where = read_json(folder / PIPELINE), f"encoder {folder}: {PIPELINE}"
    if not is_list_of(dict, modules):
        raise ConfigError(
            f"{where} must hold a list of modules, got {told(modules)}; fetch it again"
        )
    for module in modules:
        check_record(module, {"type": str, "path": str}, where, ConfigError, "fetch it again")
        if not str(module["type"]).startswith("sentence_transformers."):
            raise ConfigError(
                f"encoder {folder}: {PIPELINE} names {module['type']!r}, code of its own, which is "
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

        self.max_tokens = spec.max_tokens
        self.n_cut = self.n_empty = 0
        self._compressed: OnnxEncoder | None = None
        if is_compressed(path):
            self._compressed = OnnxEncoder(path, spec.max_tokens, torch.get_num_threads())
            return
        model = load_sentence_transformer(path, spec, "cpu")
        self._in_bfloat16 = is_in_bfloat16(spec, device)
        if self._in_bfloat16:  # once, what autocast would do for each batch
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.to(torch.bfloat16)
        self._model = model.to(device)
        self._batch_tokens = tokens_at_once(spec, device)
        self.max_tokens = model.max_seq_length or spec.max_tokens

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode texts to (N, E) float32, one row a text, in order.

        Texts are put into batches by their number of tokens. On a CPU each of torch's threads takes
        a batch of its own, so that neither their number nor their turns change a bit.
        A text that has no token for the tokenizer, such as a control character, gets zeros.
        """

        if self._compressed is not None:
            return self._compressed.encode(texts)
        model = self._model
        features = features_of(model, texts)
        mask = features.get("attention_mask")
        if mask is None:  # words looked up and averaged: nothing to put into batches
            return np.asarray(model.encode(texts, show_progress_bar=False), dtype=np.float32)
        lengths = mask.sum(1)  # (N,)
        self._count_cut(texts, lengths)
        self.n_empty += int((lengths == 0).sum())
        return encode_features(model, features, self._batch_tokens, self._in_bfloat16)

    def _count_cut(self, texts: list[str], lengths: "Tensor") -> None:
        full = [texts[row] for row in (lengths >= self.max_tokens).nonzero().flatten().tolist()]
        if full:
            whole = self._model.tokenizer(full, verbose=False)["input_ids"]
            self.n_cut += sum(len(tokens) > self.max_tokens for tokens in whole)


def is_in_bfloat16(spec: EncoderSpec, device: str) -> bool:
    """Whether the matrix products are made in bfloat16: asked for, and no slower on the device."""
    from recbole_llm.scoring.topk import bfloat16_unit

    return spec.dtype == "bfloat16" and (device != "cpu" or bfloat16_unit() is not None)


def tokens_at_once(spec: EncoderSpec, device: str) -> int:
    """Tokens in a batch: a GPU, which small ones leave idle, takes four times a CPU's."""
    return spec.batch_size * spec.max_tokens * (1 if device == "cpu" else 4)


def features_of(model: "SentenceTransformer", texts: list[str]) -> dict[str, Any]:
    """What the network reads of texts: (N, T) token ids and mask on the CPU, T the longest's tokens.

    A prompt that the model's folder names stands before each text.
    """
    prompt = model.prompts.get(model.default_prompt_name or "")
    features: dict[str, Any] = model.preprocess(texts, prompt=prompt)
    return features


def encode_features(
    model: "SentenceTransformer", features: dict[str, Any], batch_tokens: int, in_bfloat16: bool
) -> NDArray[np.float32]:
    """(N, E) float32 vectors of tokenised texts, in order, without gradient; zeros where no token is.

    Args:
        model: in its mode for inference, on any device.
        features: of ``features_of``, with an ``attention_mask``.
        batch_tokens: tokens in a batch, padding included.
        in_bfloat16: make the matrix products under autocast.
    """
    import torch

    lengths = features["attention_mask"].sum(1)  # (N,)
    width = model.get_embedding_dimension()
    assert width is not None
    vectors = np.zeros((len(lengths), width), dtype=np.float32)

    def encode_rows(rows: "Tensor") -> None:
        batch = {
            name: value.to(model.device) if torch.is_tensor(value) else value
            for name, value in _shortened(features, rows).items()
        }
        with (
            torch.inference_mode(),
            torch.autocast(model.device.type, torch.bfloat16, enabled=in_bfloat16),
        ):
            states = model(batch)["sentence_embedding"][:, : model.truncate_dim]
            vectors[rows] = states.float().cpu().numpy()

    batches = list(_batches(lengths, batch_tokens))
    n_threads = torch.get_num_threads()
    if model.device.type != "cpu" or n_threads == 1:
        for rows in batches:
            encode_rows(rows)
        return vectors
    with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(encode_rows, batches))
    torch.set_num_threads(n_threads)  # a thread that starts later takes what was set last
    return vectors


def embed_features(
    model: Callable[[dict[str, Any]], dict[str, "Tensor"]],
    features: dict[str, Any],
    batch_tokens: int,
) -> "Tensor":
    """Embed a training step's tokenised texts, in order, with gradient.

    Read as one batch, texts would be padded to the longest of the step.

    Args:
        model: a ``SentenceTransformer``, or what a trainer wrapped around it.
        features: of ``features_of``, on the model's device; without an ``attention_mask`` they are one
            batch.
        batch_tokens: tokens in a batch, padding included.
    Returns:
        (N, E) vectors, of the type that the model gives.
    """
    import torch

    if (mask := features.get("attention_mask")) is None:
        return model(features)["sentence_embedding"]
    batches = list(_batches(mask.sum(1).clamp(min=1), batch_tokens))
    parts = [model(_shortened(features, rows))["sentence_embedding"] for rows in batches]
    return torch.cat(parts)[torch.cat(batches).argsort()]


def _shortened(features: dict[str, Any], rows: "Tensor") -> dict[str, Any]:
    """What the network reads of some texts, padded to the longest of them alone."""
    longest = max(int(features["attention_mask"][rows].sum(1).max()), 1)
    return {
        name: value[rows, :longest] if hasattr(value, "dtype") else value
        for name, value in features.items()
    }


def _batches(lengths: "Tensor", batch_tokens: int) -> Iterator["Tensor"]:
    """Row numbers of texts of like lengths, the longest first; rows without a token are left out."""
    order = lengths.argsort(descending=True, stable=True)[: int((lengths > 0).sum())]
    start = 0
    while start < len(order):
        n_rows = max(batch_tokens // int(lengths[order[start]]), 1)
        yield order[start : start + n_rows]
        start += n_rows
