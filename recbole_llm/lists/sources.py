"""What each source of a list has to say to each user, under a night's rules.

Sizes: B users, M places of a list. Items are places of the day's catalogue, from the most popular on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recbole_llm.lists.catalogue import Catalogue
from recbole_llm.lists.fusion import Fused, Ranked, fuse
from recbole_llm.lists.strategy import MODEL, POPULAR, RECENT, SOURCES, Strategy
from recbole_llm.scoring import Feedback, Pairs, Rules, Scorer
from recbole_llm.scoring.feedback import is_damped
from recbole_llm.scoring.item_neighbors import ItemNeighbors
from recbole_llm.scoring.rules import first_within_cap

_DEPTH = 100
"""Places of a source's list that are looked at, or as many as are wanted."""


@dataclass(frozen=True)
class Readers:
    """Users of one market, as sources read them."""

    rows: NDArray[np.int64]
    """What is read of their histories: rows of the item matrix, oldest first, user by user."""
    lengths: NDArray[np.int64]
    """(B,)"""
    feedback: Feedback
    out: Pairs
    """Places that are not recommended to single users."""

    def some(self, users: NDArray[np.int64]) -> "Readers":
        """Some of them, given in order."""
        owners = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return Readers(
            self.rows[np.isin(owners, users)], self.lengths[users], self.feedback.of(users),
            self.out.of(users),
        )  # fmt: skip


class Sources:
    """The sources of a day's lists.

    Args:
        scorer: the model.
        catalogue: what may be recommended.
        rows: (items,) the model's row of each item of the catalogue, 0 for none.
        neighbors: by kind; what is not there cannot be asked for.
    """

    def __init__(
        self,
        scorer: Scorer,
        catalogue: Catalogue,
        rows: NDArray[np.int64],
        neighbors: Mapping[str, ItemNeighbors],
    ) -> None:
        self._scorer = scorer
        self._catalogue = catalogue
        self._neighbors = neighbors
        self._place = np.full(scorer.n_items + 1, -1, dtype=np.int64)
        self._place[rows[rows > 0]] = np.flatnonzero(rows > 0)
        aged = np.zeros(len(catalogue.items)) if catalogue.added is None else catalogue.added
        self._orders: dict[tuple[str, str], NDArray[np.int64]] = {}
        self._fresh = np.exp(aged).astype(np.float32)

    def lists(
        self, users: Readers, n_met: NDArray[np.int64], k: int, market: str, rules: Rules,
        strategy: Strategy,
    ) -> Fused:  # fmt: skip
        """The lists that a strategy makes.

        Args:
            n_met: (B,) items that each user met, known to the model or not.
            k: places of a list.
            rules: of the market.
        Returns:
            (B, K) lists; ``sources`` are places in ``strategy.SOURCES``.
        """
        shape = (len(n_met), k)
        found = Fused(
            np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32),
            np.zeros(shape, dtype=np.int64),
        )  # fmt: skip
        depth = max(_DEPTH, k)  # for shorter lists the same, so that a list begins as a longer one
        chosen = [strategy.of(n) for n in n_met.tolist()]
        for sources in dict.fromkeys(chosen):
            members = np.array([n for n, each in enumerate(chosen) if each == sources])
            some = users.some(members)
            names = [name for name, _ in sources]
            damped = Pairs() if names == [MODEL] else some.feedback.damped  # it damps by itself
            if len(damped.owners):
                some = replace(some, feedback=replace(some.feedback, damped=Pairs()))
            lists = [self.ranked(name, some, depth, market, rules) for name in names]
            fused = Fused(*lists[0], np.zeros_like(lists[0].items))
            if len(lists) > 1:
                fused = fuse(lists, [weight for _, weight in sources], strategy.fusion, depth)
            if len(damped.owners):
                fused = self._less_of(fused, damped, rules.category_damping)
            numbers = np.array([SOURCES.index(name) for name in names])[fused.sources]
            at, n_kept = self._within_cap(fused.items, rules.max_per_category, k)
            is_kept = np.arange(k) < n_kept[:, None]
            for target, part in (
                (found.items, fused.items), (found.scores, fused.scores), (found.sources, numbers)
            ):  # fmt: skip
                kept = np.take_along_axis(part, at, 1)
                target[members] = np.where(is_kept, kept, target[members])
        return found

    def _within_cap(
        self, items: NDArray[np.int64], max_per_category: int, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B, K) places of lists that are kept, and (B,) how many."""
        categories = self._catalogue.categories[items]
        return first_within_cap(categories, items >= 0, max_per_category or k, k)

    def _less_of(self, fused: Fused, damped: Pairs, damping: float) -> Fused:
        """Multiply the scores of items of damped categories, and rank anew."""
        categories = np.where(fused.items >= 0, self._catalogue.categories[fused.items], -1)
        is_less = is_damped(categories, np.arange(len(categories)), damped)
        scores = np.where(is_less, np.float32(damping) * fused.scores, fused.scores)
        order = np.argsort(-scores, axis=1, kind="stable")
        return Fused(
            np.take_along_axis(fused.items, order, 1), np.take_along_axis(scores, order, 1),
            np.take_along_axis(fused.sources, order, 1),
        )  # fmt: skip

    def ranked(self, source: str, users: Readers, depth: int, market: str, rules: Rules) -> Ranked:
        """The best of one source for each user.

        Args:
            source: a name of ``strategy.SOURCES``.
            depth: M.
            rules: of the market; items of one category are not counted here.
        """
        if source == MODEL:
            rows, scores = self._scorer.rank(
                users.rows, users.lengths, depth, replace(rules, max_per_category=0), users.feedback
            )
            return Ranked(np.where(rows > 0, self._place[rows], -1), scores)
        if source in (POPULAR, RECENT):
            weights = self._catalogue.shares
            if source == RECENT:
                assert self._catalogue.recent_shares is not None, "read with the catalogue"
                weights = self._catalogue.recent_shares * self._fresh
            return self._most_met(source, weights, users, depth, market)
        owners, rows, votes = self._neighbors[source].votes(users.rows, users.lengths)
        places = self._place[rows]
        is_there = (places >= 0) & ~np.isin(places, self._catalogue.elsewhere[market])
        votes = votes * self._fresh[places]
        return self._best(owners[is_there], places[is_there], votes[is_there], users, depth)

    def _most_met(
        self, source: str, weights: NDArray[np.float64], users: Readers, depth: int, market: str
    ) -> Ranked:
        """The heaviest items of a market, the same for all but what single users do not get."""
        if (source, market) not in self._orders:
            here = self._catalogue.here(market)
            here = here[weights[here] > 0]
            self._orders[source, market] = here[np.argsort(-weights[here], kind="stable")]
        # So many that M are left of them, whatever a user does not get.
        n_out = np.bincount(users.out.owners, minlength=1).max()
        best = self._orders[source, market][: depth + n_out]
        n_users = len(users.lengths)
        owners, places = np.repeat(np.arange(n_users), len(best)), np.tile(best, n_users)
        return self._best(owners, places, weights[places].astype(np.float32), users, depth)

    def _best(
        self, owners: NDArray[np.int64], places: NDArray[np.int64], scores: NDArray[np.float32],
        users: Readers, depth: int,
    ) -> Ranked:  # fmt: skip
        """Each user's best of (P,) candidates that they may get."""
        n_items = len(self._catalogue.items)
        is_out = np.isin(owners * n_items + places, users.out.owners * n_items + users.out.values)
        owners, places, scores = owners[~is_out], places[~is_out], scores[~is_out]
        order = np.lexsort((places, -scores, owners))
        owners, places, scores = owners[order], places[order], scores[order]
        ranks = np.arange(len(owners)) - np.searchsorted(owners, owners)
        is_kept = ranks < depth
        at = owners[is_kept], ranks[is_kept]
        shape = (len(users.lengths), depth)
        found = Ranked(np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, np.float32))
        found.items[at], found.scores[at] = places[is_kept], scores[is_kept]
        return found
