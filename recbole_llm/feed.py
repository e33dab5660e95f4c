"""A raw event feed to start from, derived from the ml-100k that RecBole's wheel carries.

Real users, items, order and intervals; the calendar is moved so that the feed ends on a stated day.
A handful of malformed rows is mixed in, of the kinds a real feed has, so that the first night
already shows a quarantine.
"""

import csv
import datetime
import importlib.util
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_llm.errors import DataError
from recbole_llm.warehouse import Warehouse

_log = logging.getLogger(__name__)
_SECONDS_A_DAY = 86_400
LAST_DAY = datetime.date(2024, 5, 31)
"""The day on which the last event of ml-100k (22 April 1998) comes to lie."""


def write_feed(warehouse: Warehouse, last_day: datetime.date = LAST_DAY) -> tuple[str, str]:
    """Write ``raw/events/ds=*/events.jsonl``, one folder a day, and ``raw/items/items.jsonl``.

    Returns:
        The first and the last day.
    Raises:
        DataError: events stand there already, or RecBole's wheel is not installed.
    """
    if warehouse.raw_events.exists():
        raise DataError(f"{warehouse.raw_events} holds events already; the feed does not touch it")
    source = recbole_example()
    events = sorted(
        _read_events(source / "ml-100k.inter"), key=lambda e: (e["timestamp"], e["user_id"])
    )
    shift = (last_day - _day(events[-1]["timestamp"])).days * _SECONDS_A_DAY
    by_day: dict[datetime.date, list[str]] = {}
    for event in events:
        moved = {**event, "timestamp": event["timestamp"] + shift}
        by_day.setdefault(_day(moved["timestamp"]), []).append(json.dumps(moved))
    first_day = min(by_day)
    for day in (first_day, last_day):
        by_day[day] += _malformed(day, by_day[day][0])
    day = first_day
    while day <= last_day:
        folder = warehouse.raw_events / f"ds={day}"
        folder.mkdir(parents=True)
        lines = by_day.get(day, [])  # a day without events has an empty file, not a gap
        (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
        day += datetime.timedelta(days=1)
    warehouse.raw_items.mkdir(parents=True, exist_ok=True)
    items = [json.dumps(item, ensure_ascii=False) for item in _read_items(source / "ml-100k.item")]
    (warehouse.raw_items / "items.jsonl").write_text("\n".join(items) + "\n", encoding="utf-8")
    _log.info(
        "feed: %d events of %s to %s and %d items in %s",
        sum(map(len, by_day.values())), first_day, last_day, len(items), warehouse.root / "raw",
    )  # fmt: skip
    return str(first_day), str(last_day)


def _malformed(day: datetime.date, good: str) -> list[str]:
    """Rows with one fault each, and two that repeat a good row."""
    noon = _seconds(day) + _SECONDS_A_DAY // 2
    event = {"user_id": "1", "item_id": "1", "timestamp": noon, "rating": 3, "event_type": "rate"}
    faults: list[dict[str, Any]] = [
        {"user_id": ""},
        {"user_id": None},
        {"item_id": None},
        {"timestamp": "yesterday"},
        {"timestamp": noon + 400 * _SECONDS_A_DAY},
        {"timestamp": -1},
        {"rating": "five"},
        {"event_type": "teleport"},
        {"item_id": "no-such-item"},
        {"user_id": "newcomer", "item_id": "no-such-item"},
    ]
    rows = [json.dumps({**event, **fault}) for fault in faults]
    return [*rows, '{"user_id": "7", "item_id": ', good, good]


def recbole_example() -> Path:
    """The folder of ml-100k in RecBole's wheel.

    Raises:
        DataError: RecBole is not installed.
    """
    found = importlib.util.find_spec("recbole")  # locates the wheel without importing it
    if found is None or not found.submodule_search_locations:
        raise DataError("the feed is derived from ml-100k in RecBole's wheel: pip install recbole")
    return Path(next(iter(found.submodule_search_locations))) / "dataset_example" / "ml-100k"


def _read_events(path: Path) -> Iterable[dict[str, Any]]:
    for row in _rows(path):
        yield {
            "user_id": row["user_id"],
            "item_id": row["item_id"],
            "timestamp": int(row["timestamp"]),
            "rating": int(row["rating"]),
            "event_type": "rate",
        }


def _read_items(path: Path) -> Iterable[dict[str, str]]:
    for row in _rows(path):
        year = row["release_year"]
        yield {
            "item_id": row["item_id"],
            "title": f"{row['movie_title']} ({year})" if year else row["movie_title"],
            "category": row["class"],
            "description": "",
        }


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for row in reader:
            yield {name.partition(":")[0]: value or "" for name, value in row.items()}


def _day(seconds: int) -> datetime.date:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()


def _seconds(day: datetime.date) -> int:
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())
