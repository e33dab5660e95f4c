"""Which items followed which, by hand."""

import numpy as np
import pytest

from recbole_llm.item_links import following_items


def test_rules_by_hand() -> None:
    sequences = [np.array([1, 2, 3]), np.array([1, 3]), np.array([2])]
    found = following_items(sequences, 5, 3)
    items, weights = found.items, found.weights
    # 1 was followed by 2 at once, and by 3 once at once and once a step later.
    assert items[1].tolist() == [3, 2, 0]
    assert weights[1] == pytest.approx([1.5 / 2.5, 1 / 2.5, 0])
    assert items[2].tolist() == [3, 0, 0]
    assert weights[2] == pytest.approx([1, 0, 0])
    assert not weights[[0, 3, 4]].any()


def test_an_item_eleven_steps_later_does_not_count_and_the_best_are_kept() -> None:
    found = following_items([np.array([1, *range(2, 14)])], 14, 4)
    items, weights = found.items, found.weights
    assert items[1].tolist() == [2, 3, 4, 5]
    total = sum(1 / n for n in range(1, 11))
    assert weights[1] == pytest.approx(np.array([1, 1 / 2, 1 / 3, 1 / 4]) / total)
    assert items[13].tolist() == [0, 0, 0, 0]


def test_an_item_that_follows_itself_and_nobody() -> None:
    found = following_items([np.array([1, 1])], 2, 1)
    items, weights = found.items, found.weights
    assert (items[1, 0], weights[1, 0]) == (1, 1)
    found = following_items([], 3, 2)
    items, weights = found.items, found.weights
    assert not items.any()
    assert not weights.any()
