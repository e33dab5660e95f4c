"""What pre-training minimises, by the names of the config key ``objective``.

Each takes its loss from sentence-transformers, or from the language model that transformers puts on
top of the encoder. ``PARTS`` makes of a corpus what the trainer needs: rows, a loss, and the figure by
which the best weights are told.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
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
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from recbole_llm.encoder import find_encoder
from recbole_llm.errors import ConfigError
from recbole_llm.language_model import LanguageModelLoss, is_causal, is_masked, same_draws
from recbole_llm.lora import plain_network
from recbole_llm.pretrain.corpus import Corpus
from recbole_llm.pretrain.options import PretrainOptions
from recbole_llm.text_encoder import embed_features, tokens_at_once

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


class PopularityCorrectedLoss(MultipleNegativesRankingLoss):
    """In-batch negatives without their popularity.

    The other items of a batch are drawn as often as they are met, so that popular ones would be pushed
    away most. The logarithm of the chance to be in the batch is taken from each item's score.
    Source: the sampling-bias correction of Yi et al., RecSys 2019.

    ``labels`` of a batch: (B,) float, that logarithm for each positive.

    Args:
        model: what is trained.
        scale: multiplies a cosine.
        batch_tokens: tokens that are read at once, padding included.
    """

    def __init__(self, model: SentenceTransformer, scale: float, batch_tokens: int) -> None:
        super().__init__(model, scale, similarity_fct=self._corrected)
        self._batch_tokens = batch_tokens
        self._log_chance: Tensor | None = None

    def forward(self, sentence_features: Any, labels: Tensor) -> Tensor:
        """Scalar loss of (B,) anchors and positives."""
        self._log_chance = labels
        embeddings = [
            embed_features(self.model, features, self._batch_tokens)
            for features in sentence_features
        ]
        loss: Tensor = self.compute_loss_from_embeddings(embeddings, labels)
        return loss

    def _corrected(self, anchors: Tensor, positives: Tensor) -> Tensor:
        assert self._log_chance is not None
        with torch.autocast(anchors.device.type, enabled=False):
            return cos_sim(anchors.float(), positives.float()) - self._log_chance / self.scale


class DenoisingLoss(DenoisingAutoEncoderLoss):
    """A text is rebuilt from the vector of what is left of it when tokens are taken out.

    Source: TSDAE, Wang et al., arXiv:2104.06979; the damage is done here and not to the rows, so that
    torch's generator, whose state a checkpoint carries, draws it.
    """

    def __init__(self, model: SentenceTransformer, deletion_prob: float) -> None:
        super().__init__(model)
        self._deletion_prob = deletion_prob

    def forward(self, sentence_features: Any, labels: Any) -> Tensor:
        """Mean negative log-likelihood of a batch's tokens, in nats."""
        (features,) = sentence_features
        with same_draws(not self.encoder.training):
            damaged = delete_tokens(features, self._deletion_prob)
        loss: Tensor = super().forward([damaged, features], labels)
        return loss


def delete_tokens(features: dict[str, Tensor], prob: float) -> dict[str, Tensor]:
    """Take tokens out of texts, each with the same chance; the first one stays, as [CLS] is.

    Args:
        features: (B, T) int64 ``input_ids`` and ``attention_mask``, padded on the right.
    Returns:
        The same two, what is left moved to the left.
    """
    tokens, is_real = features["input_ids"], features["attention_mask"].bool()
    is_kept = is_real & (torch.rand(tokens.shape, device=tokens.device) >= prob)
    is_kept[:, 0] = True
    order = torch.argsort(is_kept.byte(), dim=1, descending=True, stable=True)
    width = int(is_kept.sum(1).max())
    return {
        "input_ids": tokens.gather(1, order)[:, :width],
        "attention_mask": is_kept.gather(1, order)[:, :width].to(features["attention_mask"].dtype),
    }


def _contrastive(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, path: Path
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
    batch_tokens = tokens_at_once(find_encoder(options.encoder), model.device.type)
    loss = PopularityCorrectedLoss(model, options.scale, batch_tokens)
    return Parts(rows(pairs), rows(known), loss, "no_duplicates", "ndcg@10")


def _denoising(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, path: Path
) -> Parts:
    kind = type(plain_network(model).config)
    decoder: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None)
    if decoder is None or "encoder_hidden_states" not in signature(decoder.forward).parameters:
        _refuse(model, options, "contrastive, or an encoder that can decode from a vector, as BERT")
    if options.lora_r or find_encoder(options.encoder).adapter:
        raise ConfigError(
            "objective denoising trains all weights of the network, which its decoder shares: lora_r "
            f"must be 0, got {options.lora_r}, and encoder {options.encoder!r} without an adapter"
        )
    loss = DenoisingLoss(model, options.deletion_prob)
    return _of_texts(corpus.described(), options, loss)


def _masked(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, path: Path
) -> Parts:
    if not is_masked(model):
        _refuse(model, options, "clm or contrastive")
    loss = LanguageModelLoss(model, path, options.mask_prob)
    return _of_texts(_read_texts(corpus, options), options, loss)


def _causal(
    model: SentenceTransformer, corpus: Corpus, options: PretrainOptions, path: Path
) -> Parts:
    if not is_causal(model):
        _refuse(model, options, "mlm, denoising or contrastive")
    return _of_texts(_read_texts(corpus, options), options, LanguageModelLoss(model, path, None))


def _refuse(model: SentenceTransformer, options: PretrainOptions, take: str) -> None:
    raise ConfigError(
        f"objective {options.objective} does not fit {options.encoder}, a "
        f"{type(plain_network(model)).__name__}: take {take}"
    )


def _read_texts(corpus: Corpus, options: PretrainOptions) -> list[str]:
    kinds = options.corpus.split("+")
    items = corpus.described() if "items" in kinds else []
    return items + (corpus.rendered(options.sequence_items) if "sequences" in kinds else [])


def _of_texts(texts: list[str], options: PretrainOptions, loss: nn.Module) -> Parts:
    """The training texts, and the held-out share of them; at least one each."""
    order = np.random.default_rng(options.seed).permutation(len(texts))
    n_held_out = min(max(round(options.held_out * len(texts)), 1), len(texts) - 1)
    held_out, train = (
        Dataset.from_dict({"text": [texts[place] for place in part]})
        for part in np.split(order, [n_held_out])
    )
    return Parts(train, held_out, loss, "batch_sampler", "loss")


PARTS: dict[str, Callable[[SentenceTransformer, Corpus, PretrainOptions, Path], Parts]] = {
    "contrastive": _contrastive,
    "denoising": _denoising,
    "mlm": _masked,
    "clm": _causal,
}
"""What makes each objective's parts."""
