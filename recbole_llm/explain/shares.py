"""What of a score comes from IDs, texts, pictures, sounds and the order: shares that add up to it.

Integrated gradients on the network's inputs, along the straight way from a baseline: a history of as
many average items at an average place, and an average item to score. What that scores is a share of its
own. (A baseline of zeros would not do. The first layer norm gives the same all the way from zero, so
the whole difference would lie in one point where there is no gradient.)

Source: Sundararajan et al., arXiv:1703.01365, by captum's IntegratedGradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from recbole_llm.item_parts import ItemParts
from recbole_llm.layers import score_vectors
from recbole_llm.scoring import Scorer

STEPS = (32, 128, 512)
"""Points on the way: more are taken while the shares are off by more than ``CLOSE``."""
CLOSE = 0.01
"""Of the difference of the scores."""
_AT_ONCE = 128


@dataclass(frozen=True)
class Shares:
    """A score, taken apart."""

    of: dict[str, float]
    """``item id``, ``item minilm``, ``item picture``, …: the item's own parts; ``history id``, …: those
    of the items met; ``position``: their order; ``item bias`` and ``met before``: what is added to the
    product."""
    baseline: float
    """The score of an average item after a history of average items."""
    score: float
    completeness_error: float
    """How far shares and baseline are from the score, over the difference of score and baseline."""


@torch.no_grad()
def shares(scorer: Scorer, parts: ItemParts, read: Sequence[int], item: int) -> Shares:
    """Take a score apart.

    Args:
        parts: of the scorer's artifact.
        read: the L rows that are read, oldest first.
        item: the row of the item that is scored.
    """
    encoder, config = scorer.sequence_encoder, scorer.artifact.sequence_config
    items, lengths = scorer.item_vectors, torch.tensor([len(read)])
    names = list(parts.means(items))
    mean = _stacked(parts.means(items))  # (P, 1, H)
    history = _stacked(parts.of(torch.tensor(read), items)).unsqueeze(0)  # (1, P, L, H)
    target = _stacked(parts.of(torch.tensor([item]), items)).unsqueeze(0)  # (1, P, 1, H)
    positions = encoder.order(len(read)).unsqueeze(0)  # (1, L, H)
    inputs = (history, positions, target)
    baselines = (
        mean.expand(history.shape),
        positions.mean(1, keepdim=True).expand(positions.shape),
        mean.unsqueeze(0),
    )

    def product(met: Tensor, order: Tensor, wanted: Tensor) -> Tensor:
        states = encoder.enter(met.sum(1) + order)
        states = encoder.read_inputs(states, lengths.expand(len(met)))
        vectors = score_vectors(wanted.sum((1, 2)), config)
        return (score_vectors(states, config) * vectors).sum(1)

    whole, least = float(product(*inputs)), float(product(*baselines))
    method = IntegratedGradients(product)
    for n_steps in STEPS:
        of_history, of_order, of_item = method.attribute(
            inputs, baselines, n_steps=n_steps, internal_batch_size=_AT_ONCE
        )
        of = {f"item {name}": float(of_item[0, n].sum()) for n, name in enumerate(names)}
        of |= {f"history {name}": float(of_history[0, n].sum()) for n, name in enumerate(names)}
        of["position"] = float(of_order.sum())
        error = abs(sum(of.values()) - (whole - least)) / max(abs(whole - least), 1e-6)
        if error <= CLOSE:
            break
    score = float(scorer.score(np.array(read), np.array([len(read)]), np.array([[item]]))[0, 0])
    of["item bias"] = float(scorer.artifact.item_bias[item])
    of["met before"] = score - whole - of["item bias"] if item in read else 0.0
    return Shares(of, least, score, error)


def _stacked(parts: dict[str, Tensor]) -> Tensor:
    """(P, N, H) of P parts (N, H)."""
    return torch.stack([*parts.values()])
