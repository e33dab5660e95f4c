"""What may be recommended on a day, to whom, and what fills up the lists that the model cannot.

The driver reads it once, the workers get it broadcast.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recbole_llm.errors import DataError
from recbole_llm.lists.freshness import Freshness
from recbole_llm.lists.prerequisites import Prerequisites, prerequisites_of
from recbole_llm.lists.reasons import REASON_POPULAR, REASON_REPEAT, REASON_UNCAPPED

TRENDING = "trending"
"""The features' table of what was met in the last days: ``item_id``, ``n_events``."""
_ITEMS = pa.schema(
    [
        ("item_id", pa.string()), ("category", pa.string()), ("n_events", pa.int64()),
        ("markets", pa.list_(pa.string())), ("first_seen", pa.date32()),
        ("published_on", pa.date32()), ("requires", pa.list_(pa.string())),
        ("available", pa.bool_()),
    ]
)  # fmt: skip
"""What lists depend on of the state's ``items``."""
_LOOKED_INTO = 50
"""Times K popular items that a list is filled up from before all of the catalogue is looked at."""


@dataclass(frozen=True)
class Catalogue:
    """Items that may be recommended somewhere, those of the largest shares first."""

    items: list[str]
    shares: NDArray[np.float64]
    """(items,) of all events, less what age takes."""
    categories: NDArray[np.int64]
    """(items,) numbers from 0 on; -1 for none."""
    elsewhere: dict[str, NDArray[np.int64]]
    """Of each market the positions of items that may not be recommended there."""
    category_names: list[str]
    """By the categories' numbers."""
    recent_shares: NDArray[np.float64] | None = None
    """(items,) of the last days' events; None where no list asks for them."""
    added: NDArray[np.float64] | None = None
    """(items,) what their ages add to their scores; None where ages do not count."""
    prerequisites: Prerequisites = field(default_factory=Prerequisites)
    """What must be met before an item is recommended."""

    @cached_property
    def positions(self) -> dict[str, int]:
        """Of the items."""
        return {item: position for position, item in enumerate(self.items)}

    def here(self, market: str) -> NDArray[np.int64]:
        """Positions of the items that may be recommended in a market."""
        return np.delete(np.arange(len(self.items)), self.elsewhere[market])


def available_items(features: Path) -> pa.Table:
    """What may be recommended somewhere, with the columns of ``_ITEMS``.

    Args:
        features: a finished attempt; one of before a column was there has nulls in it.
    """
    items = pq.read_table(features / "items", schema=_ITEMS, filters=pc.field("available"))
    return items.drop_columns("available")


def read_catalogue(
    features: Path,
    markets: list[str],
    freshness: Freshness | None = None,
    with_recent: bool = False,
) -> Catalogue:
    """Take the day's available items to the driver.

    Args:
        features: a finished attempt.
        markets: accepted markets; where there are none, every item may be recommended to everybody,
            who are of the market ``""``.
        freshness: what age does to odds, the model's and those of popular items; None for nothing.
        with_recent: read what was met in the last days too.
    Raises:
        DataError: that was not counted when the features were made.
    """
    items = available_items(features)
    counts = items["n_events"].to_numpy()
    shares = counts / max(counts.sum(), 1)
    added = None if freshness is None else freshness.added(items)
    if added is not None:
        shares = shares * np.exp(added)
    items = items.append_column("share", pa.array(shares))
    if added is not None:
        items = items.append_column("added", pa.array(added))
    items = items.sort_by([("share", "descending"), ("item_id", "ascending")]).combine_chunks()
    category = pc.if_else(pc.equal(items["category"], ""), None, items["category"])
    coded = category.combine_chunks().dictionary_encode()
    codes = coded.indices.fill_null(-1)
    sold_in = items["markets"].combine_chunks()
    is_anywhere = pc.equal(pc.list_value_length(sold_in), 0).to_numpy(zero_copy_only=False)
    names, owners = sold_in.flatten(), pc.list_parent_indices(sold_in).to_numpy()
    elsewhere = {}
    for market in markets or [""]:
        is_here = is_anywhere | (not markets)
        is_here[owners[pc.equal(names, market).to_numpy(zero_copy_only=False)]] = True
        elsewhere[market] = np.flatnonzero(~is_here)
    return Catalogue(
        items["item_id"].to_pylist(),
        items["share"].to_numpy(),
        codes.to_numpy().astype(np.int64),
        elsewhere,
        coded.dictionary.to_pylist(),
        _recent_shares(features, items["item_id"]) if with_recent else None,
        None if added is None else items["added"].to_numpy(),
        prerequisites_of(items["requires"].combine_chunks()),
    )


def _recent_shares(features: Path, items: pa.Array) -> NDArray[np.float64]:
    if not (features / TRENDING).is_dir():
        raise DataError(
            f"{features} has no {TRENDING}: its features were made for lists without the source "
            "recent; prepare the day again"
        )
    recent = pq.read_table(features / TRENDING).combine_chunks()
    places = pc.index_in(items, value_set=recent["item_id"])
    counts = pc.fill_null(recent["n_events"].take(places), 0).to_numpy(zero_copy_only=False)
    shares: NDArray[np.float64] = counts / max(counts.sum(), 1)
    return shares


class Popular:
    """The most popular items of a market, for those to whom the model has too little to say.

    Args:
        catalogue: the day's.
        market: one of its markets.
        exclude_seen: items that a user has met come only where nothing else is left.
        max_per_category: items of one category in a list, while others are left; 0 for any number.
        category_damping: what a share is multiplied by where the user damped the category.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        market: str,
        exclude_seen: bool,
        max_per_category: int,
        category_damping: float = 1.0,
    ) -> None:
        self._catalogue = catalogue
        self._market = market
        self._here = catalogue.here(market)
        self._exclude_seen = exclude_seen
        self._max_per_category = max_per_category
        self._damping = category_damping

    @cached_property
    def _rank_in_category(self) -> NDArray[np.int64]:
        """(items here,) how many more popular ones have the item's category; 0 where it has none."""
        categories = self._catalogue.categories[self._here]
        order = np.argsort(categories, kind="stable")
        starts = np.searchsorted(categories[order], categories[order])
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order)) - starts
        return np.where(categories < 0, 0, ranks)

    def _walk(self, n_first: int, n_of_each: int) -> Iterator[int]:
        """Places of the most popular items, and then of the most popular of each category."""
        yield from self._here[:n_first].tolist()
        if n_first < len(self._here):
            is_near = self._rank_in_category[n_first:] < n_of_each
            yield from self._here[n_first:][is_near].tolist()

    def _damped(self, categories: list[str]) -> NDArray[np.float64]:
        """(items,) shares, those of some categories damped."""
        names = self._catalogue.category_names
        numbers = [names.index(name) for name in categories if name in names]
        is_damped = np.isin(self._catalogue.categories, numbers)
        shares: NDArray[np.float64] = self._catalogue.shares * np.where(is_damped, self._damping, 1)
        return shares

    def fill(self, user: dict[str, Any], chosen: list[str], k: int) -> list[tuple[str, float, str]]:
        """What is missing of a user's list.

        Args:
            user: ``user_id``, ``item_ids``, ``blocked_ids`` and ``damped_categories``.
            chosen: items that the list begins with.
            k: K, rows of a list.
        Returns:
            K rows less those chosen: item, its share, and why it stands there.
        Raises:
            DataError: so few items are left that the list cannot have K rows.
        """
        most = self._max_per_category or k
        seen = set(user["item_ids"]) if self._exclude_seen else set()
        out, taken = set(user["blocked_ids"]), set(chosen)
        # So many that K are left of them, where so many are left at all; and of each category so
        # many that it is full of those left.
        n_gone = len(seen | out | taken)
        n_first = max(_LOOKED_INTO * k, k + n_gone)
        categories = self._catalogue.categories
        counts = Counter(int(categories[self._catalogue.positions[item]]) for item in chosen)
        shares, by_share = self._catalogue.shares, None
        if user["damped_categories"]:
            shares = self._damped(user["damped_categories"])
            by_share = self._here[np.argsort(-shares[self._here], kind="stable")].tolist()
        rows: list[tuple[str, float, str]] = []
        for reason, banned, cap in (
            (REASON_POPULAR, out | seen, most),
            (REASON_UNCAPPED, out | seen, k),
            (REASON_REPEAT, out, k),
        ):
            n_of_each = most + n_gone if cap < k else 0
            for place in by_share or self._walk(n_first, n_of_each):
                if len(taken) == k:
                    return rows
                item, category = self._catalogue.items[place], int(categories[place])
                is_full = category >= 0 and counts[category] >= cap
                if not is_full and item not in banned and item not in taken:
                    counts[category] += 1
                    taken.add(item)
                    rows.append((item, float(shares[place]), reason))
        if len(taken) < k:
            raise DataError(
                f"user {user['user_id']!r} has {len(taken)} items left of {len(self._here)} in the "
                f"market {self._market!r}, k={k} were asked for: {len(out)} items are blocked, or "
                "require what the user has not met; lower k"
            )
        return rows
