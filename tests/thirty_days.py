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


@dataclass
class Account:
    """What the generated days must come to, kept row by row."""

    events: dict[tuple[str, str, int, bool], str] = field(default_factory=dict)
    """Market by event."""
    strangers: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def sequences(self) -> list[tuple[Any, ...]]:
        users = {event[0] for event in self.events} | self.strangers
        rows = []
        for user in sorted(users):
            mine = [
                (*event[1:], market) for event, market in self.events.items() if event[0] == user
            ]
            met = sorted((second, item) for item, second, is_block, _ in mine if not is_block)
            last = met[-MAX_HISTORY:]
            blocked = sorted({item for item, _, is_block, _ in mine if is_block})
            place = max(((second, market) for _, second, _, market in mine if market), default=None)
            rows.append(
                (user, [item for _, item in last], [second for second, _ in last], len(mine),
                 blocked, place[1] if place else None)
            )  # fmt: skip
        return rows


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
        lines = [json.dumps({"item_id": f"i{n}", "title": f"Title {n} of {number}"}) for n in held]
        (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    midnight = 1_714_521_600  # 2024-05-01T00:00:00Z
    told: list[tuple[str, str, int, bool]] = []
    markets: dict[tuple[str, str, int, bool], str] = {}
    for number, day in enumerate(days):
        rows: list[dict[str, object] | str] = []
        for _ in range(random_.randint(0, 50) if number else 60):
            age = random_.choice([0, 0, 0, 0, 1, 2, 3, 4, 9]) if number else random_.randint(0, 99)
            second = midnight + 86_400 * (number - age) + random_.randrange(86_400)
            is_block = random_.random() < 0.1
            event = (f"u{random_.randrange(15)}", f"i{random_.randrange(22)}", second, is_block)
            if told and random_.random() < 0.2:
                event = random_.choice(told[-40:])  # once more, perhaps too late by now
            told.append(event)
            user, item, second, is_block = event
            market = markets.setdefault(event, random_.choice(["", "de", "at"]))
            kind = "hide" if is_block else "view"
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
