"""What users think of items and categories, and what that does to their lists."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from recbole_llm.pairs import Pairs


@dataclass(frozen=True)
class Feedback:
    """What the users of a batch said."""

    blocked: Pairs = field(default_factory=Pairs)
    """Rows of items that are not recommended."""
    disliked: Pairs = field(default_factory=Pairs)
    """Rows of items whose likes score lower."""
    damped: Pairs = field(default_factory=Pairs)
    """Numbers of categories whose items score lower."""

    def of(self, batch: NDArray[np.int64]) -> "Feedback":
        """That of some sequences, given in order."""
        return Feedback(self.blocked.of(batch), self.disliked.of(batch), self.damped.of(batch))


def move_away(
    states: Tensor, items: Tensor, centre: Tensor, disliked: Pairs, weight: float
) -> Tensor:
    """Move states away from what their users dislike.

    A state goes by ``weight`` times its length against the mean direction of the disliked items, seen
    from the middle of the catalogue, so that what all items have in common is left as it is.

    Source: Rocchio's negative feedback, in Salton (ed.), The SMART Retrieval System, 1971, chapter 14.

    Args:
        states: (B, H) float.
        items: (V, H) float item vectors.
        centre: (H,) float, their mean.
        disliked: rows of ``items``.
        weight: at least 0.
    Returns:
        (B, H) float; states without a disliked item are unchanged.
    """
    owners = torch.from_numpy(disliked.owners).to(states.device)
    away = items[torch.from_numpy(disliked.values).to(states.device)] - centre
    sums = torch.zeros_like(states).index_add_(0, owners, functional.normalize(away, dim=-1))
    steps: Tensor = functional.normalize(sums, dim=-1) * states.norm(dim=1, keepdim=True)
    return states - weight * steps


def is_damped(
    categories: NDArray[np.int64], users: NDArray[np.int64], damped: Pairs
) -> NDArray[np.bool_]:
    """Which items of lists are of a category that the list's user damped.

    Args:
        categories: (B, M) of the items, -1 for none.
        users: (B,) whose each list is.
        damped: categories by user.
    """
    width = max(categories.max(initial=0), damped.values.max(initial=0)) + 1
    pairs = damped.owners * width + damped.values
    return np.isin(users[:, None] * width + categories, pairs) & (categories >= 0)
