"""Tiny random text networks of many architectures, saved as any Hugging Face model is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recbole_llm.encoder import EncoderSpec
from recbole_llm.text_encoder import TextEncoder

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
NETWORKS: dict[str, Callable[[], Any]] = {
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


def word_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """One token a word, nothing around them."""
    backend = Tokenizer(models.WordLevel({w: n for n, w in enumerate(_WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", **settings},
    )


def byte_tokenizer(**settings: Any) -> transformers.Qwen2Tokenizer:
    """One token a byte: transformers lets a Qwen2 have no other kind of tokenizer."""
    signs = ["<unk>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return transformers.Qwen2Tokenizer(
        vocab={sign: n for n, sign in enumerate(signs)}, merges=[],
        **{"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", **settings},
    )  # fmt: skip


def save_network(folder: Path, name: str, **tokenizer: Any) -> Path:
    """Save the network of a name in ``NETWORKS``, with a tokenizer of these settings beside it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, name)(NETWORKS[name]()).save_pretrained(folder)
    (byte_tokenizer if name == "Qwen2Model" else word_tokenizer)(**tokenizer).save_pretrained(
        folder
    )
    return folder


def encode(
    folder: Path, texts: list[str], pooling: str | None = None, **settings: Any
) -> NDArray[np.float32]:
    """The vectors of texts on a CPU."""
    return TextEncoder(folder, EncoderSpec(str(folder), pooling, **settings), "cpu").encode(texts)
