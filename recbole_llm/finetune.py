"""A text encoder that the recommendation loss trains, by LoRA, inside RecBole's loop.

A step encodes the texts of a few of the batch's items, with gradient; the other items keep the vectors
that they had. All texts are encoded anew every ``encoder.refresh_epochs`` epochs, before validation.

Sizes: V items including padding, E width of the encoder's whitened vectors.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from recbole_llm.encoder import EncoderSpec, locate_weights
from recbole_llm.language_model import LanguageModelLoss, is_masked
from recbole_llm.lora import add_lora, checkpoint_activations
from recbole_llm.options import FinetuneOptions
from recbole_llm.text_encoder import load_sentence_transformer
from recbole_llm.whitening import Whitening

_AT_ONCE = 64
"""Texts encoded together when all are."""


class TunedEncoder(nn.Module):
    """The trained adapters; the network beneath is frozen, and in no checkpoint.

    Args:
        spec: the encoder.
        options: what is trained and how.
        texts: V texts by RecBole id; "" for none, whose vector is zero.
        whitening: the fixed map from the encoder's vectors, fitted before training.
        device: a torch device's name.
    """

    def __init__(
        self, spec: EncoderSpec, options: FinetuneOptions, texts: list[str], whitening: Whitening,
        device: str,
    ) -> None:  # fmt: skip
        super().__init__()
        path = locate_weights(spec)
        # Adapters learn in float32; enable_amp makes the arithmetic cheaper.
        model = load_sentence_transformer(path, replace(spec, dtype="float32"), device)
        wrapped = add_lora(model, options.lora_r, options.lora_targets, options.lora_dropout)
        if options.gradient_checkpointing:
            checkpoint_activations(model)
        self._options = options
        self._wrapped = [wrapped]
        # In a list, so that the frozen network is no part of this module's state.
        self._frozen: list[Any] = [model]
        self._texts = texts
        self._has_text = torch.tensor([bool(text) for text in texts], device=device)
        self._mean = torch.from_numpy(whitening.mean).to(device)
        self._matrix = torch.from_numpy(whitening.matrix).to(device)
        trained = [p for p in wrapped.parameters() if p.requires_grad]
        self._language_model: list[LanguageModelLoss] = []
        if options.text_loss_weight:
            mask_prob = options.mask_prob if is_masked(model) else None
            loss = LanguageModelLoss(model, path, mask_prob).to(device)
            self._language_model.append(loss)
            known = {id(p) for p in wrapped.parameters()}
            trained += [p for p in loss.parameters() if id(p) not in known and p.requires_grad]
        self.adapters = nn.ParameterList(trained)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off, in the frozen network too."""
        super().train(mode)
        for module in (*self._frozen, *self._language_model):
            module.train(mode)
        return self

    def forward(self, items: Tensor) -> Tensor:
        """(N, E) float32 whitened vectors of (N,) int64 items that have a text."""
        (model,) = self._frozen
        features = self._features([self._texts[item] for item in items.tolist()])
        vectors: Tensor = model(features)["sentence_embedding"].float()
        return (vectors - self._mean) @ self._matrix

    def encode_all(self) -> Tensor:
        """(V, E) float32 of all items as the encoder reads them now; zero without text."""
        items = self._has_text.nonzero().squeeze(1)
        order = torch.tensor([len(self._texts[item]) for item in items.tolist()]).argsort()
        vectors = self._mean.new_zeros(len(self._texts), self._matrix.shape[1])
        was_training = self.training
        self.eval()
        with torch.no_grad():
            for part in torch.split(items[order.to(items.device)], _AT_ONCE):
                vectors[part] = self(part)
        self.train(was_training)
        return vectors

    def fresh(self, text_vectors: Tensor, met: Tensor) -> Tensor:
        """Encode some of a batch's items anew.

        Args:
            text_vectors: (V, E or more) float, the vectors as they were; the encoder's come first. The
                new ones are written there too, without gradient.
            met: int64 items of a batch, padding and repeats included.
        Returns:
            The vectors with the new ones in their places, which carry the gradient.
        """
        is_met = torch.zeros_like(self._has_text)
        is_met[met.flatten()] = True
        items = (is_met & self._has_text).nonzero().squeeze(1)
        drawn = torch.randperm(len(items), device=items.device)[: self._options.items_per_step]
        items = items[drawn]
        if not len(items):
            return text_vectors
        vectors = self(items)
        width = vectors.shape[1]
        rest = text_vectors[items, width:]
        fresh = text_vectors.index_copy(0, items, torch.cat([vectors, rest], 1))
        text_vectors[items, :width] = vectors.detach()
        return fresh

    def text_loss(self) -> Tensor | float:
        """The weighted loss of language modelling on a draw of all item texts, met or not."""
        if not self._language_model:
            return 0.0
        items = self._has_text.nonzero().squeeze(1)
        drawn = items[
            torch.randint(len(items), (self._options.items_per_step,), device=items.device)
        ]
        features = self._features([self._texts[item] for item in drawn.tolist()])
        loss: Tensor = self._language_model[0]([features], None)
        return self._options.text_loss_weight * loss

    def save(self, folder: Path) -> None:
        """Write the adapter as peft does, for ``adapter`` in a file of ``configs/encoder``."""
        self._wrapped[0].save_pretrained(str(folder))

    def _features(self, texts: list[str]) -> dict[str, Any]:
        (model,) = self._frozen
        features = model.preprocess(texts)
        return {
            key: value.to(self._mean.device) if isinstance(value, Tensor) else value
            for key, value in features.items()
        }
