"""Several lists as one, worked by hand."""

import numpy as np
import pytest

from recbole_llm.lists.fusion import Ranked, fuse


def _ranked(*users: list[tuple[int, float]]) -> Ranked:
    width = max(map(len, users))
    filled = [[*each, *[(-1, -np.inf)] * (width - len(each))] for each in users]
    return Ranked(
        np.array([[item for item, _ in each] for each in filled]),
        np.array([[score for _, score in each] for each in filled], dtype=np.float32),
    )


def test_reciprocal_ranks_by_hand() -> None:
    one = _ranked([(5, 9.0), (2, 8.0)], [])
    other = _ranked([(2, 0.3), (7, 0.2), (1, 0.1)], [(4, 1.0)])
    fused = fuse([one, other], [1.0, 2.0], "rank", 3)
    # 2 has 1/62 + 2/61, 7 has 2/62, 1 has 2/63; 5, with 1/61, comes fourth.
    assert fused.items.tolist() == [[2, 7, 1], [4, -1, -1]]
    assert fused.scores[0] == pytest.approx([1 / 62 + 2 / 61, 2 / 62, 2 / 63])
    assert fused.sources[0].tolist() == [1, 1, 1]
    assert fused.scores[1, 0] == pytest.approx(2 / 61)
    assert np.isneginf(fused.scores[1, 1:]).all()


def test_scores_by_hand() -> None:
    one = _ranked([(5, 9.0), (2, 8.0), (3, 5.0)])  # 1, 0.75 and 0
    other = _ranked([(2, 0.3), (7, 0.3)])  # alike: 1 and 1
    fused = fuse([one, other], [2.0, 1.0], "score", 4)
    assert fused.items.tolist() == [[2, 5, 7, 3]]
    assert fused.scores[0] == pytest.approx([2.5, 2.0, 1.0, 0.0])
    assert fused.sources[0].tolist() == [0, 0, 1, 0]


def test_one_list_stays_in_order_and_equal_sums_go_by_number() -> None:
    ranked = _ranked([(8, 3.0), (1, 2.0), (6, 1.0)])
    assert fuse([ranked], [1.0], "rank", 3).items.tolist() == ranked.items.tolist()
    mirror = _ranked([(1, 1.0), (8, 1.0)])
    turned = _ranked([(8, 1.0), (1, 1.0)])
    fused = fuse([mirror, turned], [1.0, 1.0], "rank", 2)
    assert fused.items.tolist() == [[1, 8]]
    assert fused.sources.tolist() == [[0, 1]]


def test_nobody_and_nothing() -> None:
    nothing = Ranked(np.full((2, 0), -1), np.zeros((2, 0), np.float32))
    fused = fuse([nothing, nothing], [1.0, 1.0], "score", 2)
    assert fused.items.tolist() == [[-1, -1], [-1, -1]]
