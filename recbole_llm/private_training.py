"""Training that is differentially private for users: with or without any one of them, the model is
nearly as likely.

A user is one training row. Each step draws every user with the same probability, cuts each drawn
user's gradient down to one length, adds them up and adds noise. Before the first step the items' counts
are released with noise, so that training starts from popularity. An accountant adds up what is told.

Clipping, noise and accounting are opacus's; the gradients are taken user by user, for a user's sequence
and the whole catalogue meet in one loss and no layer sees a user alone.

Sources: DP-SGD, Abadi et al., arXiv:1607.00133; users as records, McMahan et al., arXiv:1710.06963; the
accountant, Gopi et al., arXiv:2106.02848.
"""

import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from scipy.optimize import brentq
from torch import Tensor
from tqdm import tqdm

from recbole_llm.errors import ConfigError
from recbole_llm.options import PrivacyOptions

_LEAST, _MOST = 0.1, 1e4
"""Noise multipliers between which the budget's is sought."""
_TIGHTER = 0.7
"""Less of the noise that the quick accountant asks for never does."""
_PRECISION: dict[str, dict[str, float]] = {"rdp": {}, "prv": {"eps_error": 0.02}}
_Releases = list[tuple[float, float, int]]
"""What is released: noise multiplier, the probability that a user is in it, how often."""


@dataclass(frozen=True)
class Noise:
    """What a training adds, and what it guarantees. An artifact carries it as ``privacy``."""

    epsilon: float
    """Spent when all steps are done, by the accountant's upper bound."""
    delta: float
    unit: str
    """Whose presence is hidden: ``user``."""
    gradient_noise: float
    """Standard deviation of the noise of a step's sum, over ``max_grad_norm``."""
    popularity_noise: float
    """Standard deviation of the noise of an item's count; 0 where none were counted."""
    max_grad_norm: float
    sample_rate: float
    """The probability that a step learns from a user."""
    steps: int


def plan_noise(options: PrivacyOptions, n_users: int, batch_size: int, epochs: int) -> Noise:
    """Find the least noise that keeps a budget.

    Args:
        n_users: users with a training row.
        batch_size: users that a step learns from, on average.
        epochs: times that every user is drawn, on average.
    Raises:
        ConfigError: the budget is too small for any noise, or ``opacus`` is not there.
    """
    rate = min(batch_size / n_users, 1.0)
    delta = options.delta or 0.1 / n_users
    steps = epochs * steps_per_epoch(rate)
    popularity, counted = 0.0, []
    if options.popularity_share:
        # What one release with noise s tells grows as 1/s²: a share of that is one of the budget.
        alone = _least_noise(lambda noise: [(noise, 1.0, 1)], options.epsilon, delta)
        popularity = alone / options.popularity_share**0.5
        counted = [(popularity, 1.0, 1)]
    gradient = _least_noise(lambda noise: [*counted, (noise, rate, steps)], options.epsilon, delta)
    return Noise(
        epsilon=min(
            _spent([*counted, (gradient, rate, steps)], delta, name) for name in ("prv", "rdp")
        ),
        delta=delta,
        unit="user",
        gradient_noise=gradient,
        popularity_noise=popularity,
        max_grad_norm=options.max_grad_norm,
        sample_rate=rate,
        steps=steps,
    )


def _least_noise(releases: Callable[[float], _Releases], epsilon: float, delta: float) -> float:
    """The least noise multiplier that keeps the budget, to half a percent above it."""

    def over(noise: float, accountant: str) -> float:
        return _spent(releases(noise), delta, accountant) - epsilon

    if over(_MOST, "rdp") > 0:
        raise ConfigError(
            f"privacy.epsilon {epsilon:g} cannot be kept at delta {delta:.3g}: raise it, or train for "
            "fewer epochs"
        )
    if over(_LEAST, "rdp") <= 0:
        return _LEAST
    # The tight accountant is slow where there is little noise; the quick one never asks for less.
    most = float(brentq(over, _LEAST, _MOST, args=("rdp",), rtol=1e-4) * 1.001)
    if over(most, "prv") >= 0:  # a budget so wide that its tables end
        return most
    if over(_TIGHTER * most, "prv") <= 0:
        return _TIGHTER * most
    return float(brentq(over, _TIGHTER * most, most, args=("prv",), rtol=2e-3) * 1.003)


def _spent(releases: _Releases, delta: float, accountant: str) -> float:
    """Epsilon, at least what the releases tell together."""
    try:
        from opacus.accountants import create_accountant
    except ImportError as error:
        raise ConfigError(
            f"privacy.epsilon needs opacus: pip install recbole-llm[private] ({error})"
        ) from error
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of the ends of its tables
        accounting = create_accountant(accountant)
        accounting.history = releases
        return float(accounting.get_epsilon(delta=delta, **_PRECISION[accountant]))


def steps_per_epoch(sample_rate: float) -> int:
    """Steps in which each user is drawn once on average."""
    return round(1 / sample_rate)


def noised_popularity(sequences: list[Tensor], n_items: int, noise: float) -> Tensor:
    """How popular items are, from counts with noise: the logarithm, above that of what noise hides.

    A user counts each item once, and less the more items there are, so that all counts of one user have
    length 1 together.

    Args:
        sequences: each user's items, int64, 0 for padding.
        n_items: V, including padding.
        noise: standard deviation of what is added to each count.
    Returns:
        (V,) float32 in nats, at least 0; 0 for padding.
    """
    counts = torch.zeros(n_items)
    for sequence in sequences:
        items = torch.unique(sequence[sequence > 0])
        counts[items] += len(items) ** -0.5
    counts += torch.randn(n_items, generator=unpredictable()) * noise
    popularity = (counts.clamp(min=noise) / noise).log()
    popularity[0] = 0.0
    return popularity


def unpredictable() -> torch.Generator:
    """A generator that nobody can seed again: noise that a published seed gives hides nothing."""
    return torch.Generator().manual_seed(secrets.randbits(63))


class PrivateSteps:
    """Steps of an optimiser on a model whose users stay hidden.

    Args:
        model: a model of ours, with ``user_loss`` and ``step_average``.
        optimizer: of its weights.
        users: one training row a user.
        noise: what to add.
    """

    def __init__(
        self, model: Any, optimizer: torch.optim.Optimizer, users: Any, noise: Noise
    ) -> None:
        from opacus.optimizers import DPOptimizer

        self._model, self._users, self._noise = model, users, noise
        self._generator = unpredictable()
        device = next(model.parameters()).device
        self._optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=noise.gradient_noise,
            max_grad_norm=noise.max_grad_norm,
            expected_batch_size=max(round(noise.sample_rate * len(users)), 1),
            generator=torch.Generator(device).manual_seed(secrets.randbits(63)),
            secure_mode=True,
        )

    def epoch(self, number: int, show_progress: bool) -> float:
        """Draw every user once on average.

        Returns:
            The mean loss of the users that were drawn, in nats. It is not noised: it is for the
            operator's eyes.
        """
        self._model.train()
        losses: list[float] = []
        steps = range(steps_per_epoch(self._noise.sample_rate))
        for _ in tqdm(steps, f"Train {number:>5}", ncols=100, disable=not show_progress):
            drawn = (
                torch.rand(len(self._users), generator=self._generator) < self._noise.sample_rate
            )
            losses += [self._add(row) for row in drawn.nonzero()]
            self._step()
        return float(np.mean(losses)) if losses else float("nan")

    def _add(self, row: Tensor) -> float:
        """Add one user's clipped gradient to the sum."""
        user: Interaction = self._users[row].to(self._model.device)
        loss: Tensor = self._model.user_loss(user)
        parameters = self._optimizer.params
        for parameter, gradient in zip(
            parameters,
            torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True),
            strict=True,
        ):
            parameter.grad_sample = gradient.unsqueeze(0)
        self._optimizer.signal_skip_step(True)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()

    def _step(self) -> None:
        """Noise the sum, whoever is in it, and step."""
        self._model.step_average()
        for parameter in self._optimizer.params:
            parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)
        self._optimizer.signal_skip_step(False)
        self._optimizer.step()
        self._optimizer.zero_grad()
