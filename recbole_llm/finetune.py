"""A text encoder that the recommendation loss trains, by LoRA, inside RecBole's loop.

A step takes the gradient of the loss by all text vectors, and through the encoder for a draw of the
items. The loss goes on reading the vectors as they were: all texts are encoded anew every
``encoder.refresh_epochs`` epochs, before validation, by the average of the adapters over steps. What
ranks are averages on both sides, for the averaged network would not fit vectors that have moved on.

Sizes: V items including padding, E width of the encoder's whitened vectors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from recbole_llm.encoder import EncoderSpec, locate_weights
from recbole_llm.errors import ConfigError
from recbole_llm.language_model import LanguageModelLoss, is_masked
from recbole_llm.lora import add_lora, checkpoint_activations, take_out_dropout
from recbole_llm.options import FinetuneOptions
from recbole_llm.text_encoder import (
    embed_features,
    encode_features,
    features_of,
    is_in_bfloat16,
    load_sentence_transformer,
    tokens_at_once,
)
from recbole_llm.whitening import Whitening

_CHUNK = 4096
"""Texts tokenised together when all are encoded."""
_GRADIENT_DECAY = 0.9
"""Of the average over steps of the gradient by text vectors. A batch's own is mostly that of its few
users, and one of long ago that of vectors and a network that have moved on."""


class TunedEncoder(nn.Module):
    """The trained adapters; the network beneath is frozen, and in no checkpoint.

    Args:
        spec: the encoder.
        options: what is trained and how.
        texts: V texts by RecBole id; "" for none, whose vector is zero.
        whitening: of the encoder's vectors, fitted before training; the mean is taken anew whenever all
            texts are read.
        ema_decay: of the average of the adapters, that of the network; 0 keeps none.
        device: a torch device's name.
    Raises:
        ConfigError: the encoder has an adapter already, or has no such layers.
    """

    def __init__(
        self, spec: EncoderSpec, options: FinetuneOptions, texts: list[str], whitening: Whitening,
        ema_decay: float, device: str,
    ) -> None:  # fmt: skip
        super().__init__()
        if spec.adapter is not None:
            raise ConfigError(
                f"encoder.finetune starts from plain weights, and {spec.model!r} is read with the "
                f"adapter {spec.adapter}, which what is trained on it would lack; leave the adapter out"
            )
        path = locate_weights(spec)
        # Adapters learn in float32; enable_amp makes a step's arithmetic cheaper.
        model = load_sentence_transformer(path, replace(spec, dtype="float32"), device)
        # Whitening would turn what dropout leaves of a vector far from it, and others meet that vector.
        take_out_dropout(model)
        wrapped = add_lora(model, options.lora_r, options.lora_targets, options.lora_dropout)
        if options.gradient_checkpointing:
            checkpoint_activations(model)
        self._options = options
        self._batch_tokens = tokens_at_once(spec, device)
        self._in_bfloat16 = is_in_bfloat16(spec, device)
        self._wrapped = [wrapped]
        # In a list, so that the frozen network is no part of this module's state.
        self._frozen: list[Any] = [model]
        self._texts = texts
        self._has_text = torch.tensor([bool(text) for text in texts], device=device)
        self._matrix = torch.from_numpy(whitening.matrix).to(device)
        # What training changes beside the adapters, and a checkpoint has to hold.
        self._mean: Tensor
        self._gradient: Tensor
        self._n_steps: Tensor
        self.register_buffer("_mean", torch.from_numpy(whitening.mean).to(device))
        gradient = torch.zeros(len(texts), self._matrix.shape[1], device=device)
        self.register_buffer("_gradient", gradient)
        self.register_buffer("_n_steps", torch.zeros((), dtype=torch.int64, device=device))
        trained = [p for p in wrapped.parameters() if p.requires_grad]
        self._language_model: list[LanguageModelLoss] = []
        if options.text_loss_weight:
            mask_prob = options.mask_prob if is_masked(model) else None
            loss = LanguageModelLoss(model, path, mask_prob).to(device)
            self._language_model.append(loss)
            known = {id(p) for p in wrapped.parameters()}
            trained += [p for p in loss.parameters() if id(p) not in known and p.requires_grad]
        self.adapters = nn.ParameterList(trained)
        self.average: AveragedModel | None = None
        if ema_decay:
            rule = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.adapters, multi_avg_fn=rule).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Switch the adapters' dropout on or off; the network has none."""
        super().train(mode)
        for module in (*self._frozen, *self._language_model):
            module.train(mode)
        return self

    def forward(self, items: Tensor) -> Tensor:
        """(N, E) float32 whitened vectors of (N,) int64 items that have a text."""
        (model,) = self._frozen
        features = self._features([self._texts[item] for item in items.tolist()])
        return self._whitened(embed_features(model, features, self._batch_tokens))

    def encode_all(self) -> Tensor:
        """(V, E) float32 of all items as the averaged adapters read them; zero without text.

        Each distinct text is read once, as ``TextEncoder`` reads it: in the type that the encoder's
        ``dtype`` names.
        """
        (model,) = self._frozen
        distinct = sorted(
            {text for text in self._texts if text}, key=lambda text: (len(text), text)
        )
        row = {text: number for number, text in enumerate(distinct)}
        was_training = self.training
        self.eval()
        with self._averaged():
            parts = [
                encode_features(
                    model, features_of(model, distinct[start : start + _CHUNK]), self._batch_tokens,
                    self._in_bfloat16,
                )
                for start in range(0, len(distinct), _CHUNK)
            ]  # fmt: skip
        self.train(was_training)
        encoded = torch.from_numpy(np.concatenate(parts)).to(self._mean.device)
        encoded = encoded[[row[text] for text in self._texts if text]]
        self._mean = encoded.mean(0)
        vectors = self._mean.new_zeros(len(self._texts), self._matrix.shape[1])
        vectors[self._has_text] = self._whitened(encoded)
        return vectors

    def _whitened(self, vectors: Tensor) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):  # as the frozen ones were
            return (vectors.float() - self._mean) @ self._matrix

    def pass_on(self, loss: Tensor, read: Tensor) -> Tensor:
        """Lead the gradient that a loss has by text vectors on into the adapters.

        The whole of it would take a reading of every text. The gradient is averaged over steps, which
        costs no reading, and a draw of items is read: as often as their gradients are long, each for
        those that were not drawn too, so that the expected gradient is the whole one. A draw of a
        batch's items, most of which are right answers, would teach the adapters to lift whatever is
        read.

        Args:
            loss: scalar, of which ``read`` is a leaf; its graph is kept.
            read: (V, E or more) float, the vectors that the loss read; the encoder's come first.
        Returns:
            Scalar 0 with that gradient, to be added to the loss.
        Source: gradients by the vectors first and through the encoder then, Gao et al.,
        arXiv:2101.06983; draws by the length of the gradient, Katharopoulos & Fleuret,
        arXiv:1803.00942; their sum set right, as Deville & Särndal, 1992, do with known totals.
        """
        (gradient,) = torch.autograd.grad(loss, read, retain_graph=True)
        if not gradient.isfinite().all():
            return self._nothing()  # the step is lost, the average is not
        gradient = self._average_gradient(gradient)
        lengths = gradient.norm(dim=1)
        total = lengths.sum()
        if not total:
            return self._nothing()
        n_drawn = self._options.items_per_step
        drawn = torch.multinomial(lengths, n_drawn, replacement=True)
        items, times = torch.unique(drawn, return_counts=True)
        shares = (times / n_drawn)[:, None]  # (N, 1)
        passed = shares * total * gradient[items] / lengths[items, None]
        passed -= shares * passed.sum(0)
        vectors = self(items)
        led: Tensor = ((vectors - vectors.detach()) * passed).sum()
        return led

    def _nothing(self) -> Tensor:
        """Scalar 0 of all adapters: processes that learn together wait for a gradient of each."""
        return torch.stack([0.0 * value.sum() for value in self.adapters]).sum()

    def _average_gradient(self, gradient: Tensor) -> Tensor:
        """(V, E) float32: a step's (V, E or more) gradient taken into the average of those before."""
        gradient = gradient[:, : self._matrix.shape[1]].float()
        gradient = gradient - gradient[self._has_text].mean(0)  # centring takes a shift of all out
        gradient *= self._has_text[:, None]
        self._n_steps += 1
        self._gradient.lerp_(gradient, 1 - _GRADIENT_DECAY)
        averaged: Tensor = self._gradient / (1 - _GRADIENT_DECAY**self._n_steps)
        return averaged

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
        """Write the adapter that ranks, as peft does, for ``adapter`` in ``configs/encoder``."""
        with self._averaged():
            self._wrapped[0].save_pretrained(str(folder))

    def step_average(self) -> None:
        """Take the adapters, as the last step left them, into their average."""
        if self.average is not None:
            self.average.update_parameters(self.adapters)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged adapters in the place of the trained ones."""
        averages = self.adapters if self.average is None else self.average.module.parameters()
        pairs = list(zip(self.adapters, averages, strict=True))
        trained = [value.data for value, _ in pairs]
        for value, average in pairs:
            value.data = average.data
        try:
            yield
        finally:
            for (value, _), data in zip(pairs, trained, strict=True):
                value.data = data

    def _features(self, texts: list[str]) -> dict[str, Any]:
        (model,) = self._frozen
        features = features_of(model, texts)
        return {
            key: value.to(self._mean.device) if isinstance(value, Tensor) else value
            for key, value in features.items()
        }
