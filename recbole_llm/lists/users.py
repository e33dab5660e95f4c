"""One user as a night sees them: what they met, and what they said of items.

The same rules as the nightly state's, for one user at once; a service adds by them what came since the
night.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from recbole_llm.lists.meanings import ABOUT, OF_HISTORY
from recbole_llm.lists.ranker import OF_USERS

_SCHEMA = pa.schema(
    (name, pa.string() if name in ("user_id", "market") else pa.list_(pa.string()))
    for name in OF_USERS
)


@dataclass(frozen=True, order=True)
class Event:
    """What a user did at a time."""

    timestamp: int
    """Unix seconds, UTC."""
    item_id: str
    says: str = ""
    """One of ``meanings.MEANINGS``, or nothing."""


@dataclass(frozen=True)
class User:
    """A user and all that a list of theirs depends on."""

    user_id: str
    met: tuple[Event, ...] = ()
    """Oldest first, ties by item."""
    said: tuple[Event, ...] = ()
    """The newest of each item and meaning, in any order."""
    market: str | None = None

    def after(self, events: Iterable[Event], market: str | None, max_history: int) -> "User":
        """The user after more events, each of which is new.

        Args:
            events: in any order.
            market: where they were last, if it is known.
            max_history: newest events of the history that are kept.
        """
        new = list(events)
        met = sorted([*self.met, *(event for event in new if event.says in OF_HISTORY)])
        said = [*self.said, *(event for event in new if event.says)]
        return replace(
            self, met=tuple(met[-max_history:]), said=tuple(said), market=market or self.market
        )

    def wishes(self, categories: Mapping[str, str]) -> dict[str, list[str]]:
        """What the user's opinions come to, the newest of each matter; see ``spark_jobs.opinions``.

        Args:
            categories: of items that have one.
        Returns:
            ``blocked_ids``, ``disliked_ids``, ``unread_ids`` and ``damped_categories``, sorted.
        """
        newest: dict[tuple[str, str], str] = {}
        for event in sorted(self.said, key=lambda event: (event.timestamp, event.says)):
            for matter, says in ABOUT.items():
                if event.says in (*says, "undo"):
                    newest[matter, event.item_id] = event.says
        about: dict[str, dict[str, str]] = {matter: {} for matter in ABOUT}
        for (matter, item), says_now in newest.items():
            about[matter][item] = says_now
        disliked = {item for item, says in about["wish"].items() if says == "dislike"}
        hidden = {item for item, says in about["wish"].items() if says == "hide"}
        ignored = {item for item, says in about["reading"].items() if says == "ignore"}
        damped = {
            categories[item]
            for item, says in about["category_wish"].items()
            if says == "damp" and item in categories
        }
        return {
            "blocked_ids": sorted(disliked | hidden),
            "disliked_ids": sorted(disliked),
            "unread_ids": sorted(disliked | ignored),
            "damped_categories": sorted(damped),
        }


def as_batch(users: Iterable[User], categories: Mapping[str, str]) -> pa.RecordBatch:
    """Users as ``Ranker.lists`` takes them."""
    rows: list[dict[str, Any]] = [
        {
            "user_id": user.user_id,
            "item_ids": [event.item_id for event in user.met],
            "market": user.market,
            **user.wishes(categories),
        }
        for user in users
    ]
    return pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)
