"""Thirty days of a generated feed, and a plain account of what they come to."""

import datetime
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from recbole_llm.warehouse import Warehouse
from tests.data import write_events

N_DAYS, MAX_LATE_DAYS, MAX_HISTORY = 30, 3, 8
_SAYS = ("like", "dislike", "hide", "damp", "ignore", "undo")
_TYPES = {"": "view", "damp": "not_interested_category", "ignore": "do_not_use"}
Event = tuple[str, str, int, str]
"""User, item, second, and what it says of the item."""


@dataclass
class Account:
    """What the generated days must come to, kept row by row."""

    events: dict[Event, str] = field(default_factory=dict)
    """Market by event."""
    categories: dict[str, str] = field(default_factory=dict)
    """Of the newest catalogue that an item stood in."""
    strangers: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def sequences(self) -> list[tuple[Any, ...]]:
        users = {event[0] for event in self.events} | self.strangers
        rows = []
        for user in sorted(users):
            mine = [
                (*event[1:], market) for event, market in self.events.items() if event[0] == user
            ]
            met = sorted((second, item) for item, second, says, _ in mine if says in ("", "like"))
            last = met[-MAX_HISTORY:]
            said = [(second, says, item) for item, second, says, _ in mine]
            place = max(((second, market) for _, second, _, market in mine if market), default=None)
            rows.append(
                (user, [item for _, item in last], [second for second, _ in last], len(mine),
                 *self._wishes(said), place[1] if place else None)
            )  # fmt: skip
        return rows

    def _wishes(self, said: list[tuple[int, str, str]]) -> tuple[list[str], ...]:
        """Blocked, disliked and unread items, and damped categories."""
        wish: dict[str, str] = {}
        reading: dict[str, str] = {}
        category: dict[str, str] = {}
        for _, says, item in sorted(said):
            if says in ("like", "dislike", "hide", "undo"):
                wish[item] = says
            if says in ("ignore", "undo"):
                reading[item] = says
            if says in ("damp", "undo"):
                category[item] = says
        disliked = {item for item, says in wish.items() if says == "dislike"}
        hidden = {item for item, says in wish.items() if says == "hide"}
        ignored = {item for item, says in reading.items() if says == "ignore"}
        damped = {self.categories[item] for item, says in category.items() if says == "damp"}
        return tuple(map(sorted, (hidden | disliked, disliked, ignored | disliked, damped - {""})))


def write_days(warehouse: Warehouse) -> tuple[list[str], Account]:
    """Thirty days with late, repeated, misplaced and malformed events, and three catalogues."""
    random_ = random.Random(5)
    account = Account()
    start = datetime.date(2024, 5, 1)
    days = [(start + datetime.timedelta(days=n)).isoformat() for n in range(N_DAYS)]
    catalogues = {0: range(12), 10: range(2, 16), 20: range(4, 20)}
    first_seen = {f"i{item}": day for day, held in reversed(catalogues.items()) for item in held}
    for number, held in catalogues.items():
        folder = warehouse.raw_items / f"ds={days[number]}"
        folder.mkdir(parents=True)
        named = {f"i{n}": f"c{(n + number) % 5}" if n % 4 else "" for n in held}
        account.categories |= named
        lines = [
            json.dumps({"item_id": item, "title": f"{item} of {number}", "category": category})
            for item, category in named.items()
        ]
        (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    midnight = 1_714_521_600  # 2024-05-01T00:00:00Z
    told: list[Event] = []
    markets: dict[Event, str] = {}
    for number, day in enumerate(days):
        rows: list[dict[str, object] | str] = []
        for _ in range(random_.randint(0, 50) if number else 60):
            age = random_.choice([0, 0, 0, 0, 1, 2, 3, 4, 9]) if number else random_.randint(0, 99)
            second = midnight + 86_400 * (number - age) + random_.randrange(86_400)
            says = random_.choice(_SAYS) if random_.random() < 0.4 else ""
            event = (f"u{random_.randrange(15)}", f"i{random_.randrange(22)}", second, says)
            if told and random_.random() < 0.2:
                event = random_.choice(told[-40:])  # once more, perhaps too late by now
            told.append(event)
            user, item, second, says = event
            market = markets.setdefault(event, random_.choice(["", "de", "at"]))
            kind = _TYPES.get(says, says)
            rows += [{"user_id": user, "item_id": item, "timestamp": second, "event_type": kind,
                      "market": market}]  # fmt: skip
            account.counts["raw"] += 1
            is_late = second < midnight + 86_400 * number
            if number and second < midnight + 86_400 * (number - MAX_LATE_DAYS):
                account.counts["quarantined"] += 1
            elif number < first_seen.get(item, N_DAYS):
                account.strangers.add(user)
                account.counts["quarantined"] += 1
            elif event in account.events:
                account.counts["duplicate"] += 1
            else:
                account.events[event] = market
                account.counts["accepted"] += 1
                account.counts["late"] += bool(number) and is_late
        if random_.random() < 0.5:
            rows += ["{broken", {"user_id": "v", "item_id": "i4", "timestamp": "soon"}]
            account.counts["raw"] += 2
            account.counts["quarantined"] += 2
        random_.shuffle(rows)
        write_events(warehouse.raw_events, day, rows)
    return days, account
