"""The comparison by hand: models whose ranking is a fixed order of the items."""

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

from recbole_llm.errors import ConfigError
from recbole_llm.judge import (
    Event,
    PromotionRules,
    compare,
    promotion_rules,
    read_newest_events,
    user_ndcg,
)
from recbole_llm.scoring import Scorer
from tests.data import CYCLE, random_artifact

RULES = PromotionRules(
    days=2, margin=0.1, confidence=0.95, min_users=3, max_users=9, max_events=2, keep_refused=1,
    keep_superseded=1,
)  # fmt: skip


def _scorer(order: list[str]) -> Scorer:
    """A model that ranks the items in this order for everybody; it knows no others."""
    biases = torch.tensor([0.0, *(1e4 * (len(order) - n) for n in range(len(order)))])
    return Scorer(replace(random_artifact(order), item_bias=biases))


def _event(user_id: str, history: list[str], item_id: str) -> Event:
    return Event(user_id, [*history, item_id], len(history))


def test_a_users_score_is_the_mean_over_their_events() -> None:
    scorer = _scorer(CYCLE)
    events = [
        _event("b", ["i5"], "i0"), _event("b", ["i5"], "i1"),  # ranks 1 and 2
        _event("a", ["i0"], "i11"),  # rank 12
        _event("c", ["i5", "i1"], "i2"),  # rank 3, or 2 without what was seen
        _event("d", ["i5"], "unheard"), _event("d", ["unheard"], "i0"),
    ]  # fmt: skip
    second = 1 / np.log2(3)
    seen_too = user_ndcg(scorer, events, [*CYCLE, "unheard"], exclude_seen=False)
    np.testing.assert_allclose(seen_too, [(1 + second) / 2, 0, 0.5, 0])
    without_seen = user_ndcg(scorer, events, CYCLE, exclude_seen=True)
    np.testing.assert_allclose(without_seen, [(1 + second) / 2, 0, second, 0])
    # Of the eleven others i0 is no longer one.
    others = user_ndcg(scorer, events, CYCLE[1:], exclude_seen=False)
    np.testing.assert_allclose(others, [0.5, 0, second, 0])


def test_too_few_items_count_nothing() -> None:
    events = [_event("a", CYCLE[:3], "i9"), _event("b", CYCLE[:2], "i2")]
    found = user_ndcg(_scorer(CYCLE), events, CYCLE, exclude_seen=True)
    np.testing.assert_allclose(found, [0, 1])


def test_the_interval_by_hand() -> None:
    """Champion i0, i1, …; challenger i1, i0, …: three users, differences 1 - s, s - 1 and 0."""
    champion, challenger = _scorer(CYCLE), _scorer(["i1", "i0", *CYCLE[2:]])
    events = [_event(user, ["i5"], item) for user, item in (("a", "i1"), ("b", "i0"), ("c", "i2"))]
    found = compare(champion, challenger, events, CYCLE, False, RULES)
    s = 1 / np.log2(3)
    assert (found.n_users, found.n_events) == (3, 3)
    assert found.champion_ndcg == pytest.approx((s + 1 + 0.5) / 3)
    assert found.difference == pytest.approx(0, abs=1e-12)
    # Differences d, -d and 0 have the standard deviation d; 2.9200 is t for 0.95 and 2 degrees.
    assert found.lower == pytest.approx(-2.91999 * (1 - s) / 3**0.5, rel=1e-5)
    assert not found.is_passed
    assert "below the -0.0710 that the margin allows" in found.reason
    generous = replace(RULES, margin=0.9)
    assert compare(champion, challenger, events, CYCLE, False, generous).is_passed


def test_equals_pass_and_few_users_judge_nothing() -> None:
    scorer = _scorer(CYCLE)
    events = [_event(user, ["i5"], "i1") for user in "abc"]
    same = compare(scorer, scorer, events, CYCLE, False, replace(RULES, margin=0.0))
    assert (same.difference, same.lower, same.is_passed) == (0.0, 0.0, True)
    few = compare(scorer, scorer, events[:2], CYCLE, False, RULES)
    assert not few.is_passed
    assert few.reason == "2 users have events to judge by, promotion.min_users is 3"


def test_the_newest_events_with_all_that_was_before(tmp_path: Path) -> None:
    (tmp_path / "sequences").mkdir()
    rows = [
        ("back", ["a", "b", "a", "c", "d"], [1, 2, 10, 11, 12], []),
        ("fresh", ["no", "x", "y", "no"], [9, 10, 12, 12], ["no"]),
        ("gone", ["a", "b"], [1, 9], []),
        ("once", ["a"], [12], []),
        ("shy", ["a", "b"], [1, 12], ["b"]),
    ]
    with duckdb.connect() as database:
        database.execute(
            "CREATE TABLE s (user_id text, item_ids text[], timestamps bigint[], unread_ids text[])"
        )
        database.executemany("INSERT INTO s VALUES (?, ?, ?, ?)", rows)
        database.execute(f"COPY s TO '{tmp_path}/sequences/0.parquet'")

    def read(exclude_seen: bool, rules: PromotionRules = RULES) -> list[tuple[str, list[str], str]]:
        events = read_newest_events(tmp_path, 10, exclude_seen, rules)
        return sorted((event.user_id, event.history, event.item_id) for event in events)

    fresh = ("fresh", ["x"], "y")
    met = ["a", "b", "a"]
    assert read(True) == [("back", met, "c"), ("back", [*met, "c"], "d"), fresh]
    assert read(False) == [("back", ["a", "b"], "a"), ("back", met, "c"), fresh]
    assert read(False, replace(RULES, max_events=1)) == [("back", ["a", "b"], "a"), fresh]
    assert len({user for user, _, _ in read(False, replace(RULES, max_users=2))}) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": 1}, r"promotion.margin must be in \[0.0, 1\), got 1"),
        ({"confidence": 0.3}, r"promotion.confidence must be in \[0.5, 1\), got 0.3"),
        ({"days": 0}, "promotion.days must be an integer of at least 1, got 0"),
        ({"surprise": 1}, "'promotion' must hold exactly"),
    ],
)
def test_bad_rules_are_told(change: dict[str, object], message: str) -> None:
    settings = {**vars(RULES), **change}
    with pytest.raises(ConfigError, match=message):
        promotion_rules(settings, Path("night.yaml"))
    with pytest.raises(ConfigError, match="'promotion' must hold exactly"):
        promotion_rules(None, Path("night.yaml"))
