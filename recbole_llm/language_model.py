"""An encoder's own language modelling: guessing hidden words, or the next one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from recbole_llm.encoder import weights_source
from recbole_llm.lora import plain_network
from recbole_llm.text_encoder import unpacked


def is_masked(model: SentenceTransformer) -> bool:
    """Whether transformers has a masked language model of the network's kind."""
    return type(plain_network(model).config) in MODEL_FOR_MASKED_LM_MAPPING


def is_causal(model: SentenceTransformer) -> bool:
    """Whether the network guesses the next word by nature. BERT can be made to; it was not."""
    kind = type(plain_network(model).config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and not is_masked(model)


@contextmanager
def same_draws(wanted: bool) -> Iterator[None]:
    """Let torch draw the same numbers each time, so that an evaluation's figures compare."""
    with torch.random.fork_rng(enabled=wanted):
        if wanted:
            torch.manual_seed(0)
        yield


class LanguageModelLoss(nn.Module):
    """The encoder's own language modelling, by the head that transformers puts on it.

    Args:
        model: its network is trained; the head shares what it ties to the network's word vectors.
        path: where the model was loaded from, a folder or GGUF file.
        mask_prob: share of the tokens to guess, for a masked language model; None for a causal one,
            which guesses each token from those before it.
    """

    def __init__(self, model: SentenceTransformer, path: Path, mask_prob: float | None) -> None:
        super().__init__()
        kind = AutoModelForCausalLM if mask_prob is None else AutoModelForMaskedLM
        folder, gguf = weights_source(path)
        self.network = kind.from_pretrained(
            folder, **gguf, **unpacked(gguf), dtype=torch.float32, use_safetensors=True
        )
        setattr(self.network, self.network.base_model_prefix, plain_network(model))
        self.network.tie_weights()
        self._collator = None
        if mask_prob is not None:
            self._collator = DataCollatorForLanguageModeling(
                model.tokenizer, mlm_probability=mask_prob
            )

    def forward(self, sentence_features: Any, labels: Tensor | None) -> Tensor:
        """Mean negative log-likelihood of a batch's guessed tokens, in nats."""
        (features,) = sentence_features
        tokens, is_real = features["input_ids"], features["attention_mask"]
        if self._collator is None:
            inputs, wanted = tokens, tokens.masked_fill(is_real == 0, -100)
        else:
            with same_draws(not self.network.base_model.training):
                on_cpu, wanted = self._collator.torch_mask_tokens(tokens.cpu().clone())
            inputs, wanted = on_cpu.to(tokens.device), wanted.to(tokens.device)
        loss: Tensor = self.network(
            input_ids=inputs, attention_mask=is_real, labels=wanted, use_cache=False
        ).loss
        # Of no token to guess the mean is NaN.
        guessed = wanted if self._collator is not None else wanted[:, 1:]
        return loss if (guessed != -100).any() else loss.nan_to_num(0.0)
