import json
from pathlib import Path

import pytest

from recbole_llm.errors import DataError
from recbole_llm.feed import write_feed
from recbole_llm.warehouse import Warehouse


def test_the_feed_is_ml_100k_by_day(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    assert write_feed(warehouse) == ("2023-10-30", "2024-05-31")
    files = sorted(warehouse.raw_events.glob("ds=*/events.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert len(files) == 215
    assert len(lines) == 100_000 + 2 * 13  # and the malformed rows of two days
    first = json.loads(files[0].read_text().splitlines()[0])
    assert first.keys() == {"user_id", "item_id", "timestamp", "rating", "event_type"}
    items = [json.loads(line) for line in (tmp_path / "raw/items/items.jsonl").open()]
    assert len(items) == 1682
    assert items[0] == {
        "item_id": "1",
        "title": "Toy Story (1995)",
        "category": "Animation Children's Comedy",
        "description": "",
    }


def test_a_feed_is_never_overwritten(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.raw_events.mkdir(parents=True)
    with pytest.raises(DataError, match="holds events already"):
        write_feed(warehouse)
