"""Ages and what they take, worked by hand."""

import datetime
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llm.lists.catalogue import Popular, read_catalogue
from recbole_llm.lists.freshness import Freshness

DAY = datetime.date(2024, 5, 8)


def _ago(days: int) -> datetime.date:
    return DAY - datetime.timedelta(days=days)


def test_odds_halve_each_half_life() -> None:
    items = pa.table(
        {
            "published_on": pa.array([DAY, _ago(3), _ago(6), None, _ago(-2), None], pa.date32()),
            "first_seen": pa.array([_ago(9), DAY, None, _ago(3), DAY, None], pa.date32()),
        }
    )
    added = Freshness(DAY, 3.0).added(items)
    assert [math.exp(each) for each in added] == pytest.approx([1, 0.5, 0.25, 0.5, 1, 1])


def test_popular_items_are_those_of_the_largest_shares_by_age(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    items = {
        "item_id": ["old", "new", "middle", "gone"], "category": ["x", "", "x", ""],
        "n_events": [8, 3, 4, 1], "markets": pa.array([[]] * 4, pa.list_(pa.string())),
        "first_seen": pa.array([_ago(4), DAY, _ago(2), DAY]),
        "published_on": pa.array([None] * 4, pa.date32()), "available": [True, True, True, False],
    }  # fmt: skip
    table = pa.table(items)  # without what is required, as states of before have it
    pq.write_table(table, tmp_path / "items" / "0.parquet")
    user = {"user_id": "u", "item_ids": [], "blocked_ids": [], "damped_categories": []}

    def popular(freshness: Freshness | None) -> list[tuple[str, float]]:
        catalogue = read_catalogue(tmp_path, [], freshness)
        return [row[:2] for row in Popular(catalogue, "", True, 0).fill(user, [], 3)]

    assert popular(None) == [("old", 8 / 15), ("middle", 4 / 15), ("new", 3 / 15)]
    by_age = popular(Freshness(DAY, 2.0))
    assert [item for item, _ in by_age] == ["new", "middle", "old"]  # 3, 2 of 4 and 2 of 8
    assert [share for _, share in by_age] == pytest.approx([3 / 15, 2 / 15, 2 / 15])
