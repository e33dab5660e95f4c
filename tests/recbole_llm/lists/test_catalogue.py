"""What popular items fill a list up with, worked by hand."""

import numpy as np
import pyarrow as pa
import pytest

from recbole_llm.errors import DataError
from recbole_llm.lists.catalogue import Catalogue, Popular


def test_popular_items_by_hand() -> None:
    catalogue = Catalogue(
        list("abcdef"), pa.array([0.4, 0.2, 0.2, 0.1, 0.1, 0.0]).to_numpy(),
        pa.array([0, 0, 1, -1, 0, -1]).to_numpy(),
        {"de": pa.array([1]).to_numpy(), "at": pa.array(range(2, 6)).to_numpy()}, ["x", "y"],
    )  # fmt: skip
    user = {"user_id": "u", "item_ids": ["a", "d"], "blocked_ids": ["c"], "damped_categories": []}
    rows = Popular(catalogue, "de", True, 1).fill(user, [], 3)
    assert rows == [("e", 0.1, "popular"), ("f", 0.0, "popular"), ("a", 0.4, "repeat")]
    rows = Popular(catalogue, "de", False, 1).fill({**user, "blocked_ids": []}, ["d"], 3)
    assert rows == [("a", 0.4, "popular"), ("c", 0.2, "popular")]
    damper = {**user, "item_ids": [], "damped_categories": ["x", "gone"]}
    rows = Popular(catalogue, "at", True, 0, 0.5).fill(damper, [], 2)
    assert rows == [("a", 0.2, "popular"), ("b", 0.1, "popular")]
    rows = Popular(catalogue, "de", False, 0, 0.2).fill({**damper, "blocked_ids": []}, [], 3)
    assert [item for item, *_ in rows] == ["c", "d", "a"]
    rows = Popular(catalogue, "at", True, 1).fill({**user, "item_ids": []}, [], 2)
    assert rows == [("a", 0.4, "popular"), ("b", 0.2, "uncapped")]
    with pytest.raises(DataError, match="user 'u' has 2 items left of 2 in the market 'at', k=3"):
        Popular(catalogue, "at", True, 0).fill(user, [], 3)


def test_a_popular_item_of_another_category_is_found_far_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recbole_llm.lists.catalogue._LOOKED_INTO", 1)
    categories = pa.array([0] * 30 + [1] * 30).to_numpy()
    everywhere = {"": pa.array([], pa.int64()).to_numpy()}
    shares = np.arange(60, 0, -1) / 60
    catalogue = Catalogue([f"{n}" for n in range(60)], shares, categories, everywhere, ["x", "y"])
    user = {
        "user_id": "u", "item_ids": ["0", "30"], "blocked_ids": ["31"], "damped_categories": []
    }  # fmt: skip
    rows = Popular(catalogue, "", True, 1).fill(user, [], 3)
    assert [(item, reason) for item, _, reason in rows] == [
        ("1", "popular"), ("32", "popular"), ("2", "uncapped")
    ]  # fmt: skip
