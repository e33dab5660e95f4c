"""Rules, against walks written out in plain Python."""

import numpy as np
import pytest
import torch

from recbole_llm.scoring import Rules, Scorer
from recbole_llm.scoring.rules import first_within_cap
from tests.data import random_artifact

IDS = [f"i{n}" for n in range(300)]
SEQS = [[IDS[(17 * n + 5 * step) % 300] for step in range(1 + n % 6)] for n in range(40)]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(random_artifact(IDS))


def _rank(
    scorer: Scorer, k: int, rules: Rules, blocked: list[tuple[int, int]] = ()
) -> tuple[list[list[str]], list[list[float]]]:
    rows = [[scorer.row(item) for item in seq] for seq in SEQS]
    flat = np.array([row for seq in rows for row in seq])
    pairs = np.array(sorted(blocked), dtype=np.int64).reshape(-1, 2)
    lengths = np.array([len(seq) for seq in rows])
    ranked, scores = scorer.rank(flat, lengths, k, rules, (pairs[:, 0], pairs[:, 1]))
    lists = [[IDS[row - 1] for row in best if row] for best in ranked.tolist()]
    return lists, [[s for s in best if s > -np.inf] for best in scores.tolist()]


def _all(scorer: Scorer, exclude_seen: bool) -> list[list[str]]:
    n = 300 - 6 if exclude_seen else 300
    return [scorer.top_k([seq], n, exclude_seen).item_ids[0] for seq in SEQS]


def test_a_walk_by_hand() -> None:
    categories = np.array([[0, 0, 1, -1, 0, -1, 1, -1], [2, 2, 2, 2, 2, 2, 2, 2]])
    is_there = np.ones_like(categories, dtype=bool)
    is_there[0, 3] = False
    places, n = first_within_cap(categories, is_there, 1, 4)
    assert places.tolist() == [[0, 2, 5, 7], [0, 0, 0, 0]]
    assert n.tolist() == [4, 1]
    places, n = first_within_cap(categories, is_there, 2, 4)
    assert places.tolist() == [[0, 1, 2, 5], [0, 1, 0, 0]]
    assert n.tolist() == [4, 2]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(("n_categories", "cap"), [(40, 1), (7, 2), (2, 3), (1, 1)])
def test_a_cap_is_a_walk_down_the_whole_ranking(
    scorer: Scorer, n_categories: int, cap: int, exclude_seen: bool
) -> None:
    """Also where so few categories are left that nobody gets ten items."""
    categories = np.random.default_rng(3).integers(-1, n_categories, 301)
    categories[1:][categories[1:] < 0] = 0 if n_categories < 3 else -1
    rules = Rules(exclude_seen, categories=categories, max_per_category=cap)
    expected = []
    for ranked in _all(scorer, exclude_seen):
        taken: list[str] = []
        n_of = dict.fromkeys(range(n_categories), 0)
        for item in ranked:
            category = int(categories[IDS.index(item) + 1])
            if category < 0 or n_of[category] < cap:
                taken.append(item)
                n_of[category] = n_of.get(category, 0) + 1
        expected.append(taken[:10])
    lists, scores = _rank(scorer, 10, rules)
    assert lists == expected
    assert all(list(best) == sorted(best, reverse=True) for best in scores)
    if n_categories < 3:
        assert {len(best) for best in lists} == {n_categories * cap}


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_banned_and_blocked_items_are_left_out(scorer: Scorer, exclude_seen: bool) -> None:
    banned = torch.arange(1, 301, 3)
    first = [ranked[0] for ranked in _all(scorer, exclude_seen)]
    blocked = [(user, IDS.index(item) + 1) for user, item in enumerate(first) if user % 2]
    blocked += [(user, IDS.index(SEQS[user][-1]) + 1) for user in range(0, 40, 5)]
    out = [{IDS[row - 1] for owner, row in blocked if owner == user} for user in range(40)]
    for among in (None, scorer.among(IDS[::2])):
        for rows in (banned, banned[::2], None):  # one after the other: nothing may stay behind
            shut = {IDS[row - 1] for row in rows.tolist()} if rows is not None else set()
            sold = set(IDS) - shut if among is None else set(IDS[::2]) - shut
            lists, _ = _rank(scorer, 20, Rules(exclude_seen, among, rows), blocked)
            for user, ranked in enumerate(_all(scorer, exclude_seen)):
                allowed = [item for item in ranked if item in sold - out[user]]
                assert lists[user] == allowed[:20]
