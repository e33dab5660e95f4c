"""The weights of the epoch that was best on validation."""

import copy
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class BestWeights:
    """A callback for RecBole's ``fit``: keeps the weights that were best on validation in memory.

    Args:
        model: whose weights.
        bigger: whether a higher score is a better one.
        on_epoch: called after each validation with the epoch, from 0, and its score.

    Attributes:
        epoch: the best one's number, from 1; 0 for the weights before any training, None without a
            validation.
    """

    def __init__(
        self,
        model: nn.Module,
        bigger: bool,
        on_epoch: Callable[[int, float], None] | None,
    ) -> None:
        self._model = model
        self._on_epoch = on_epoch
        self._sign = 1.0 if bigger else -1.0
        self._best = -math.inf
        self._weights: dict[str, Tensor] | None = None
        self.epoch: int | None = None
        self._n_seen = 0

    def __call__(self, epoch: int, valid_score: float) -> None:
        self._n_seen += epoch >= 0
        # RecBole takes the later of two equal epochs; what a transfer brought has to be beaten.
        is_no_worse = self._sign * valid_score >= self._best
        if is_no_worse and (self.epoch != 0 or self._sign * valid_score > self._best):
            self._best = self._sign * valid_score
            self._weights = copy.deepcopy(self._model.state_dict())
            self.epoch = epoch + 1
        if self._on_epoch is not None:
            self._on_epoch(epoch, valid_score)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What ``load_state`` takes: the best weights, none without a validation, and JSON types."""
        about = {"score": self._best, "epoch": self.epoch, "n_validations": self._n_seen}
        return self._weights or {}, about

    def load_state(self, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Know what another knew of the same training."""
        self._weights = weights or None
        self._best, self.epoch, self._n_seen = (
            about["score"], about["epoch"], about["n_validations"]
        )  # fmt: skip

    def restore(self, n_trained: int) -> None:
        """Put the best weights back; where no epoch was validated, the last one's stay."""
        if n_trained and not self._n_seen:
            self.epoch = None
        elif self._weights is not None:
            self._model.load_state_dict(self._weights)
