"""Which of two models may rank: a paired test on the newest events, which neither was trained on.

Each event of the newest days is to be foretold from all that its user did before it. Both models
rank the same items, those of the newest catalogue that are available, and both are asked about the
same events. A user's score is the mean NDCG@10 of their events; users, not events, are the sample,
as the events of one user are alike. The challenger passes where the lower end of the one-sided
confidence interval of the mean difference lies above minus the margin: a test of non-inferiority.

Source: non-inferiority as in Piaggio et al., JAMA 2012 (doi:10.1001/jama.2012.87802).
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recbole_llm.errors import ConfigError
from recbole_llm.parquet_tables import duckdb_over
from recbole_llm.retention import MOST_DAYS
from recbole_llm.scoring import Scorer

_log = logging.getLogger(__name__)
K = 10
_AT_ONCE = 2048
"""Histories held in memory together."""


@dataclass(frozen=True)
class PromotionRules:
    """How champion and challenger are compared."""

    days: int
    """Newest days whose events are kept from training and foretold."""
    margin: float
    """The challenger may be worse by this share of the champion's NDCG@10."""
    confidence: float
    """Of the one-sided interval."""
    min_users: int
    """With fewer users to judge by, the challenger is refused."""
    max_users: int
    """At most so many users are drawn, by a hash of their ids."""
    max_events: int
    """At most so many events of a user are foretold, the oldest of those days first."""
    keep_refused: int
    """Artifacts of refused challengers that stay, the newest."""
    keep_superseded: int
    """Artifacts of earlier champions that stay, the newest, beside those of the newest tables."""

    def __post_init__(self) -> None:
        for name, least in (("days", 1), ("min_users", 2), ("max_users", 2), ("max_events", 1),
                            ("keep_refused", 0), ("keep_superseded", 0)):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"promotion.{name} must be an integer of at least {least}, got {value!r}"
                )
        if self.days > MOST_DAYS:
            raise ConfigError(f"promotion.days must be at most {MOST_DAYS}, got {self.days}")
        for name, below in (("margin", 0.0), ("confidence", 0.5)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, float) or not below <= value < 1:
                raise ConfigError(f"promotion.{name} must be in [{below}, 1), got {value!r}")


def promotion_rules(settings: Any, config_file: Path) -> PromotionRules:
    """Check the section ``promotion`` of the night's settings.

    Raises:
        ConfigError: it is absent, or a key is unknown, missing or out of range.
    """
    known = {field.name for field in fields(PromotionRules)}
    if not isinstance(settings, dict) or settings.keys() != known:
        found = list(settings) if isinstance(settings, dict) else settings
        raise ConfigError(
            f"{config_file}: 'promotion' must hold exactly {sorted(known)}, got {found}"
        )
    return PromotionRules(**settings)


@dataclass(frozen=True)
class Event:
    """One event to foretell from those before it; the events of a user share one list."""

    user_id: str
    items: list[str]
    """Items of the user's events, oldest first."""
    place: int
    """Where among them this event's item stands."""

    @property
    def history(self) -> list[str]:
        """Items met before it, oldest first."""
        return self.items[: self.place]

    @property
    def item_id(self) -> str:
        """The item to foretell."""
        return self.items[self.place]


@dataclass(frozen=True)
class Comparison:
    """What the test found; NDCG@10 as means over users."""

    n_users: int
    n_events: int
    champion_ndcg: float
    challenger_ndcg: float
    difference: float
    """Challenger less champion."""
    lower: float
    """Lower end of the one-sided interval of ``difference``."""
    is_passed: bool
    reason: str


def read_newest_events(
    features: Path, after_s: int, exclude_seen: bool, rules: PromotionRules
) -> list[Event]:
    """The events to foretell, in the order of a hash of their users' ids, without what users do not
    want to be read.

    Args:
        features: a finished attempt's folder, with ``sequences``.
        after_s: Unix seconds; events from then on are foretold.
        exclude_seen: leave out events of items that the user met before, as the table never holds
            them.
    """
    with duckdb_over(features) as database:
        rows = database.execute(
            "SELECT user_id, items, seconds FROM ("
            "  SELECT user_id, [item FOR item, place IN item_ids IF is_read[place]] AS items,"
            "         [second FOR second, place IN timestamps IF is_read[place]] AS seconds"
            "  FROM (SELECT *, [NOT list_contains(unread_ids, item) FOR item IN item_ids] AS is_read"
            "        FROM read_parquet($files)))"
            " WHERE list_max(seconds) >= $after AND len(items) > 1"
            " ORDER BY md5(user_id) LIMIT $n_users",
            {"files": f"{features}/sequences/*.parquet", "after": after_s,
             "n_users": rules.max_users},
        ).fetchall()  # fmt: skip
    events = []
    for user_id, items, seconds in rows:
        first = next(place for place, second in enumerate(seconds) if second >= after_s)
        places = [
            place
            for place in range(max(first, 1), len(items))
            if not (exclude_seen and items[place] in items[:place])
        ]
        events += [Event(user_id, items, place) for place in places[: rules.max_events]]
    return events


def user_ndcg(
    scorer: Scorer, events: list[Event], eligible: list[str], exclude_seen: bool
) -> NDArray[np.float64]:
    """(users,) mean NDCG@10 of each user's events, users in the order of the events.

    An item that the model does not know is not in its list, nor is anything where it knows nothing of
    the history or fewer than ten items are left: both count 0.

    Args:
        eligible: the items that are ranked.
    """
    choice = scorer.among(eligible)
    gains = np.zeros(len(events))
    for start, some in _batches(events, scorer, exclude_seen, choice.n_items):
        best = scorer.top_k([event.history for _, event in some], K, exclude_seen, choice).item_ids
        for (place, event), items in zip(some, best, strict=True):
            if event.item_id in items:
                gains[start + place] = 1 / np.log2(items.index(event.item_id) + 2)
    users = [event.user_id for event in events]
    starts = [n for n, user in enumerate(users) if n == 0 or user != users[n - 1]]
    counts = np.diff([*starts, len(users)])
    return np.asarray(np.add.reduceat(gains, starts) / counts)


def _batches(
    events: list[Event], scorer: Scorer, exclude_seen: bool, n_choice: int
) -> Iterator[tuple[int, list[tuple[int, Event]]]]:
    """Events that can be ranked, with their places in the batch that starts at ``start``."""
    for start in range(0, len(events), _AT_ONCE):
        batch = list(enumerate(events[start : start + _AT_ONCE]))
        yield (
            start,
            [
                (place, event)
                for place, event in batch
                if n_choice - (len(set(event.history)) if exclude_seen else 0) >= K
            ],
        )


def compare(
    champion: Scorer,
    challenger: Scorer,
    events: list[Event],
    eligible: list[str],
    exclude_seen: bool,
    rules: PromotionRules,
) -> Comparison:
    """Let both rank the same items for the same events, and test the difference over users.

    Args:
        events: from ``read_newest_events``.
        eligible: external ids of the items that may be recommended.
    """
    started = time.monotonic()
    n_users = len({event.user_id for event in events})
    if n_users < rules.min_users:
        reason = (
            f"{n_users} users have events to judge by, promotion.min_users is {rules.min_users}"
        )
        return Comparison(n_users, len(events), 0.0, 0.0, 0.0, 0.0, False, reason)
    before, after = (
        user_ndcg(scorer, events, eligible, exclude_seen) for scorer in (champion, challenger)
    )
    differences = after - before
    error = float(differences.std(ddof=1)) / n_users**0.5
    mean = float(differences.mean())
    lower = mean - float(stats.t.ppf(rules.confidence, n_users - 1)) * error
    least = -rules.margin * float(before.mean())
    is_passed = lower >= least
    reason = (
        f"NDCG@{K} {after.mean():.4f} against {before.mean():.4f} of the champion over {n_users} "
        f"users: at {rules.confidence:.0%} confidence the difference is at least {lower:+.4f}, "
        f"{'not ' if is_passed else ''}below the {least:+.4f} that the margin allows"
    )
    _log.info("judged %d events, %.1f s: %s", len(events), time.monotonic() - started, reason)
    return Comparison(
        n_users, len(events), float(before.mean()), float(after.mean()), mean, lower, is_passed,
        reason,
    )  # fmt: skip
