"""What pre-training minimises, by the names of the config key ``objective``.

Each takes its loss from sentence-transformers, or from the language model that transformers puts on
top of the encoder. ``PARTS`` makes of a corpus what the trainer needs: rows, a loss, and the figure by
which the best weights are told.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    DenoisingAutoEncoderLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import cos_sim
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

from recbole_llm.errors import ConfigError
from recbole_llm.pretrain.corpus import Corpus
from recbole_llm.pretrain.options import PretrainOptions


_N_HELD_OUT_PAIRS = 512
"""Validation pairs that tell the contrastive loss; next-item retrieval says the rest."""


@dataclass(frozen=True)
class Parts:
    """What one objective brings to the loop."""

    train: Dataset
    held_out: Dataset
    loss: nn.Module
    batch_sampler: str
    best_by: str
    """The figure that tells the best weights, ``ndcg@10`` or ``loss``."""


class PopularityCorrectedLoss(MultipleNegativesRankingLoss):  # type: ignore[misc]
    """In-batch negatives without their popularity.

    The other items of a batch are drawn as often as they are met, so that popular ones would be pushed
    away most. The logarithm of the chance to be in the batch is taken from each item's score.
    Source: the sampling-bias correction of Yi et al., RecSys 2019.

    ``labels`` of a batch: (B,) float, that logarithm for each positive.
    """

    def __init__(self, model: SentenceTransformer, scale: float) -> None:
        super().__init__(model, scale, similarity_fct=self._corrected)
        self._log_chance: Tensor | None = None

    def forward(self, sentence_features: Any, labels: Tensor) -> Tensor:
        """Scalar loss of (B,) anchors and positives."""
        self._log_chance = labels
        loss: Tensor = super().forward(sentence_features, labels)
        return loss

    def _corrected(self, anchors: Tensor, positives: Tensor) -> Tensor:
        assert self._log_chance is not None
        return cos_sim(anchors, positives) - self._log_chance / self.scale


class LanguageModelLoss(nn.Module):
    """The encoder's own language modelling, by the head that transformers puts on it.

    Args:
        model: its network is trained; the head shares what it ties to the network's word vectors.
        source: where the model was loaded from, ``(folder, keywords)`` of ``from_pretrained``.
        mask_prob: share of the tokens to guess, for a masked language model; None for a causal one,
            which guesses each token from those before it.
    """

    def __init__(
        self, model: SentenceTransformer, source: tuple[str, dict[str, Any]],
        mask_prob: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        kind = AutoModelForCausalLM if mask_prob is None else AutoModelForMaskedLM
        self.network = kind.from_pretrained(source[0], **source[1])
        setattr(self.network, self.network.base_model_prefix, model.transformers_model)
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
            # In evaluation the same tokens are masked each time, so that its figures compare.
            with torch.random.fork_rng(enabled=not self.training):
                if not self.training:
                    torch.manual_seed(0)
                on_cpu, wanted = self._collator.torch_mask_tokens(tokens.cpu().clone())
            inputs, wanted = on_cpu.to(tokens.device), wanted.to(tokens.device)
        loss: Tensor = self.network(
            input_ids=inputs, attention_mask=is_real, labels=wanted, use_cache=False
        ).loss
        return loss


def _contrastive(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, source: Any
) -> Parts:
    pairs = corpus.pairs(options.pair_window)
    counts = np.bincount(pairs[:, 1], minlength=len(corpus.texts))
    share = counts / max(counts.sum(), 1)
    # The chance to be among a batch's items, of which none stands twice.
    chance = 1 - (1 - share) ** options.train_batch_size
    log_chance = np.log(np.clip(chance, 1e-9, None)) * options.popularity_correction

    def rows(pairs: Any) -> Dataset:
        return Dataset.from_dict(
            {
                "anchor": [corpus.texts[item] for item in pairs[:, 0]],
                "positive": [corpus.texts[item] for item in pairs[:, 1]],
                "label": log_chance[pairs[:, 1]].astype(np.float32),
            }
        )

    valid = corpus.valid_pairs()
    known = valid[counts[valid[:, 1]] > 0][:_N_HELD_OUT_PAIRS]
    loss = PopularityCorrectedLoss(model, options.scale)
    return Parts(rows(pairs), rows(known), loss, "no_duplicates", "ndcg@10")


def _denoising(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, source: Any
) -> Parts:
    kind = type(model.transformers_model.config)
    decoder = MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None)
    if decoder is None or "encoder_hidden_states" not in signature(decoder.forward).parameters:
        _refuse(model, options, "contrastive, or an encoder that can decode from a vector, as BERT")
    train, held_out = _split(corpus.described(), options)

    def damage(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        noisy = [_delete_words(text, options.deletion_prob) for text in batch["text"]]
        return {"noisy": noisy, "text": batch["text"]}

    def rows(texts: list[str]) -> Dataset:

        found = Dataset.from_dict({"noisy": texts, "text": texts})
        found.set_transform(damage)
        return found

    loss = DenoisingAutoEncoderLoss(model)
    return Parts(rows(train), rows(held_out), loss, "batch_sampler", "loss")


def _delete_words(text: str, prob: float) -> str:
    """Leave words out, each with the same chance; one word at least stays.

    Python's own generator draws: a checkpoint of transformers carries its state.
    """
    words = text.split()
    kept = [word for word in words if random.random() >= prob]
    return " ".join(kept or words[:1]) or text


def _masked(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, source: Any
) -> Parts:
    _check_kind(model, options, MODEL_FOR_MASKED_LM_MAPPING, "clm or contrastive")
    return _language_model(model, corpus, options, source, options.mask_prob)


def _causal(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, source: Any
) -> Parts:
    config = model.transformers_model.config
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:  # BERT can be made to decode; it was not
        _refuse(model, options, "mlm, denoising or contrastive")
    _check_kind(model, options, MODEL_FOR_CAUSAL_LM_MAPPING, "mlm or contrastive")
    return _language_model(model, corpus, options, source, None)


def _check_kind(model: SentenceTransformer, options: PretrainOptions, kinds: Any, take: str) -> None:
    if type(model.transformers_model.config) not in kinds:
        _refuse(model, options, take)


def _refuse(model: SentenceTransformer, options: PretrainOptions, take: str) -> None:
    raise ConfigError(
        f"objective {options.objective} does not fit {options.encoder}, a "
        f"{type(model.transformers_model).__name__}: take {take}"
    )


def _language_model(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, source: Any,
    mask_prob: float | None,
) -> Parts:  # fmt: skip
    texts = []
    if "items" in options.corpus.split("+"):
        texts += corpus.described()
    if "sequences" in options.corpus.split("+"):
        texts += corpus.rendered(options.sequence_items)
    train, held_out = ({"text": part} for part in _split(texts, options))
    return Parts(
        Dataset.from_dict(train), Dataset.from_dict(held_out),
        LanguageModelLoss(model, source, mask_prob), "batch_sampler", "loss",
    )  # fmt: skip


def _split(texts: list[str], options: PretrainOptions) -> tuple[list[str], list[str]]:
    """Training texts, and the held-out share of them; at least one each."""
    order = np.random.default_rng(options.seed).permutation(len(texts))
    n_held_out = min(max(round(options.held_out * len(texts)), 1), len(texts) - 1)
    return (
        [texts[place] for place in order[n_held_out:]],
        [texts[place] for place in order[:n_held_out]],
    )


PARTS: dict[str, Callable[[SentenceTransformer, Corpus, PretrainOptions, Any], Parts]] = {
    "contrastive": _contrastive,
    "denoising": _denoising,
    "mlm": _masked,
    "clm": _causal,
}
"""What makes each objective's parts."""
