"""What may stand in a list, beside what the model thinks of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recbole_llm.scoring.topk import TopItems


@dataclass(frozen=True)
class Rules:
    """What holds for all sequences that are ranked together."""

    exclude_seen: bool = True
    """Leave out what a sequence holds."""
    among: TopItems | None = None
    """The only items that may be ranked, from ``Scorer.among``; None allows all."""
    banned: Tensor | None = None
    """(N,) int64 rows of them that may not be ranked all the same, as where they are not on sale."""
    categories: NDArray[np.int64] | None = None
    """(V,) the category of each row, from 0 on; -1 for none."""
    max_per_category: int = 0
    """Items of one category in a list, of those with one; 0 for any number."""
    dislike_weight: float = 0.0
    """By what share of its length a state moves away from what its user dislikes."""
    category_damping: float = 1.0
    """What the odds of items of a damped category are multiplied by, in (0, 1]."""


def first_within_cap(
    categories: NDArray[np.int64], is_there: NDArray[np.bool_], max_per_category: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Walk down ranked lists and take each item whose category is not full yet.

    Args:
        categories: (B, M) by rank, -1 for none.
        is_there: (B, M), false for places without an item.
        max_per_category: items of one category.
        k: items wanted.
    Returns:
        (B, K) places of those taken, in order and, where there are fewer, filled up with 0; (B,) how
        many there are.
    """
    length = categories.shape[1]
    by_category = np.argsort(categories, axis=1, kind="stable")
    sorted_ = np.take_along_axis(categories, by_category, axis=1)
    is_first = np.ones_like(sorted_, dtype=bool)
    is_first[:, 1:] = sorted_[:, 1:] != sorted_[:, :-1]
    places = np.arange(length)
    starts = np.maximum.accumulate(np.where(is_first, places, 0), axis=1)
    n_before = np.empty_like(by_category)  # of the same category
    np.put_along_axis(n_before, by_category, places - starts, axis=1)
    is_taken = is_there & ((n_before < max_per_category) | (categories < 0))
    order = np.argsort(~is_taken, axis=1, kind="stable")[:, :k]
    n_taken = np.minimum(is_taken.sum(axis=1), k)
    return np.where(np.arange(order.shape[1]) < n_taken[:, None], order, 0), n_taken
