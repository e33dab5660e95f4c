"""Rules and feedback, against walks written out in plain Python."""

from collections import Counter

import numpy as np
import pytest
import torch

from recbole_llm.scoring import Feedback, Pairs, Rules, Scorer
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
    feedback = Feedback(blocked=Pairs(pairs[:, 0], pairs[:, 1]))
    ranked, scores = scorer.rank(flat, lengths, k, rules, feedback)
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


@pytest.mark.parametrize("cap", [0, 2])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_what_is_added_to_items_ranks_them_anew(
    scorer: Scorer, exclude_seen: bool, cap: int
) -> None:
    some = IDS[::-2]
    added = np.random.default_rng(7).normal(0, 3, len(some))
    categories = np.arange(301) % 60
    rules = Rules(exclude_seen, scorer.among(some, added), None, categories, cap)
    lists, scores = _rank(scorer, 10, rules)
    more = dict(zip(some, added, strict=True))
    for user, seq in enumerate(SEQS):
        n_left = 300 - 6 if exclude_seen else 300
        whole = scorer.top_k([seq], n_left, exclude_seen)
        pairs = zip(whole.item_ids[0], whole.scores[0].tolist(), strict=True)
        total = {item: score + more[item] for item, score in pairs if item in more}
        n_of, expected = Counter[int](), []
        for item in sorted(total, key=lambda item: -total[item]):
            category = int(categories[IDS.index(item) + 1])
            n_of[category] += 1
            if not cap or n_of[category] <= cap:
                expected.append(item)
        assert lists[user] == expected[:10]
        assert scores[user] == pytest.approx([total[item] for item in expected[:10]], abs=1e-4)


@pytest.mark.parametrize("cap", [0, 2])
@pytest.mark.parametrize("damping", [1e-6, 0.3, 1.0])
def test_damping_multiplies_odds_and_ranks_anew(scorer: Scorer, damping: float, cap: int) -> None:
    categories = np.random.default_rng(5).integers(-1, 6, 301)
    rules = Rules(False, categories=categories, max_per_category=cap, category_damping=damping)
    users = np.arange(0, 40, 2)  # the others damped nothing
    damped = Pairs(users.repeat(2), np.stack([users % 6, (users + 1) % 6], 1).flatten())
    rows = [[scorer.row(item) for item in seq] for seq in SEQS]
    flat, lengths = np.concatenate(rows), np.array(list(map(len, rows)))
    ranked, scores = scorer.rank(flat, lengths, 10, rules, Feedback(damped=damped))
    for user, seq in enumerate(SEQS):
        whole = scorer.top_k([seq], 300, False)
        odds = {}
        for item, score in zip(whole.item_ids[0], whole.scores[0], strict=True):
            mine = damped.values[damped.owners == user].tolist()
            is_mine = int(categories[IDS.index(item) + 1]) in mine
            odds[item] = np.exp(float(score)) * (damping if is_mine else 1)
        expected: list[str] = []
        n_of = Counter[int]()
        for item in sorted(odds, key=lambda item: -odds[item]):
            category = int(categories[IDS.index(item) + 1])
            if not cap or category < 0 or n_of[category] < cap:
                expected.append(item)
                n_of[category] += 1
        assert [IDS[row - 1] for row in ranked[user]] == expected[:10], user
        wanted = [np.log(odds[item]) for item in expected[:10]]
        np.testing.assert_allclose(scores[user], wanted, atol=1e-4)


def test_likes_of_what_is_disliked_score_lower(scorer: Scorer) -> None:
    """By hand: the state goes half its length against the mean of two directions."""
    rows, lengths = np.array([5, 9, 7]), np.array([2, 1])
    feedback = Feedback(disliked=Pairs(np.array([1, 1]), np.array([3, 4])))
    _, before = scorer.rank(rows, lengths, 300, Rules(False))
    ranked, after = scorer.rank(rows, lengths, 300, Rules(False, dislike_weight=0.5), feedback)
    items = scorer.artifact.item_matrix.numpy()
    away = items[[3, 4]] - items[1:].mean(0)
    away = (away / np.linalg.norm(away, axis=1, keepdims=True)).sum(0)
    state = scorer.encode_history([[IDS[6]]])[0]
    state = state - 0.5 * np.linalg.norm(state) * away / np.linalg.norm(away)
    places = np.argsort(ranked[1])
    n_repeats = 1  # of the item met, whose bias is not in the vector
    expected = items[1:] @ state + scorer.artifact.item_bias.numpy()[1:]
    off = np.abs(after[1][places] - expected) > 1e-4
    assert off.sum() <= n_repeats
    np.testing.assert_array_equal(after[0], before[0])
    _, unweighed = scorer.rank(rows, lengths, 300, Rules(False), feedback)
    np.testing.assert_allclose(unweighed, before, atol=1e-6)
