"""Several ranked lists of each user as one.

Sizes: B users, S sources, M places of a source's list, K of the fused one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FUSIONS = ("rank", "score")
_RANK_OFFSET = 60
"""Of reciprocal ranks: how little the first places count more than the next ones."""


class Ranked(NamedTuple):
    """A source's lists, best first."""

    items: NDArray[np.int64]
    """(B, M), -1 where a list has ended."""
    scores: NDArray[np.float32]
    """(B, M), not rising."""


class Fused(NamedTuple):
    """Lists of several sources as one."""

    items: NDArray[np.int64]
    """(B, K), -1 where a list has ended."""
    scores: NDArray[np.float32]
    """(B, K), not rising."""
    sources: NDArray[np.int64]
    """(B, K) the source that gave most to each place, by its number."""


def fuse(lists: list[Ranked], weights: list[float], fusion: str, k: int) -> Fused:
    """Add up what each source gives to each item.

    By ``rank`` a source gives its weight over 60 plus the rank, whatever the scores: reciprocal rank
    fusion, Cormack et al., SIGIR 2009. By ``score`` it gives its weight times the score, brought to
    0 for the last and 1 for the first place of its list: CombSUM, Fox and Shaw, TREC-2 1993.

    Args:
        lists: of S sources, all of B users; an item stands once in each.
        weights: S numbers above 0.
        fusion: one of ``FUSIONS``.
        k: K, places wanted.
    Returns:
        (B, K) lists; of equal sums the lower item number first.
    """
    n_users = len(lists[0].items)
    items = np.concatenate([each.items for each in lists], axis=1)  # (B, sum of M)
    given = np.concatenate(
        [w * _shares(each, fusion) for w, each in zip(weights, lists, strict=True)], axis=1
    )
    source = np.concatenate([np.full(each.items.shape[1], n) for n, each in enumerate(lists)])
    is_there = items >= 0
    users, columns = is_there.nonzero()
    width = items.max(initial=0) + 1
    keys, places = np.unique(users * width + items[is_there], return_inverse=True)
    sums = np.bincount(places, given[is_there], minlength=len(keys))
    # Of each item the source that gives most comes first, then the one that stands first.
    order = np.lexsort((source[columns], -given[is_there], places))
    first = np.searchsorted(places[order], np.arange(len(keys)))
    most = source[columns][order][first]
    owners = keys // width
    by_user = np.lexsort((keys, -sums, owners))
    owners = owners[by_user]
    ranks = np.arange(len(keys)) - np.searchsorted(owners, owners)
    is_kept = ranks < k
    at = owners[is_kept], ranks[is_kept]
    found = np.full((n_users, k), -1, dtype=np.int64)
    scores = np.full((n_users, k), -np.inf, dtype=np.float32)
    sources = np.zeros((n_users, k), dtype=np.int64)
    found[at] = (keys % width)[by_user][is_kept]
    scores[at], sources[at] = sums[by_user][is_kept], most[by_user][is_kept]
    return Fused(found, scores, sources)


def _shares(ranked: Ranked, fusion: str) -> NDArray[np.float64]:
    """(B, M) what the places of lists are worth, before the source's weight."""
    if fusion == "rank":
        places = np.arange(1, ranked.items.shape[1] + 1)
        shares: NDArray[np.float64] = np.broadcast_to(
            1 / (_RANK_OFFSET + places), ranked.items.shape
        )
        return shares
    is_there = ranked.items >= 0
    scores = np.where(is_there, ranked.scores, np.inf)
    least = scores.min(axis=1, keepdims=True, initial=np.inf)
    span = np.where(is_there, ranked.scores - least, 0)
    most = span.max(axis=1, keepdims=True, initial=0)
    return np.where(is_there, np.where(most > 0, span / np.where(most > 0, most, 1), 1), 0)
