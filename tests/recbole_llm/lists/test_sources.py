"""Lists of several sources under a night's rules, worked by hand on seven items."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.errors import ArtifactError
from recbole_llm.lists.catalogue import Catalogue
from recbole_llm.lists.ranker import ListSettings, Ranker
from recbole_llm.lists.strategy import Strategy
from recbole_llm.lists.users import Event, User, as_batch
from recbole_llm.scoring import load_scorer, write_artifact
from recbole_llm.scoring.item_neighbors import (
    COLLABORATIVE,
    CONTENT,
    ItemNeighbors,
    write_neighbors,
)
from tests.data import random_artifact

ITEMS = list("abcdefg")
"""The most popular first; the model does not know g."""
CATEGORIES = dict(zip(ITEMS, ["x", "x", "y", "y", "", "x", "y"], strict=True))


def _near(pairs: dict[str, str]) -> ItemNeighbors:
    """Two neighbors of an item, the second half as near."""
    items, weights = np.zeros((7, 2), np.int32), np.zeros((7, 2), np.float32)
    for item, near in pairs.items():
        row = 1 + ITEMS.index(item)
        items[row, : len(near)] = [1 + ITEMS.index(other) for other in near]
        weights[row, : len(near)] = [1.0, 0.5][: len(near)]
    return ItemNeighbors(items, weights)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = write_artifact(random_artifact(ITEMS[:6]), tmp_path)
    near = {CONTENT: _near({"a": "cd", "b": "e"}), COLLABORATIVE: _near({"a": "fe", "b": "c"})}
    write_neighbors(near, folder.name, folder)
    return folder


def _catalogue() -> Catalogue:
    names = ["x", "y"]
    shares = np.array([7, 6, 5, 4, 3, 2, 1]) / 28
    recent = np.array([0, 0, 0, 1, 0, 0, 3]) / 4
    numbers = [names.index(name) if name else -1 for name in CATEGORIES.values()]
    nowhere = {"": np.zeros(0, np.int64), "de": np.array([2])}
    return Catalogue(ITEMS, shares, np.array(numbers), nowhere, names, recent)


def _lists(
    artifact: Path, users: list[User], k: int = 3, **settings: Any
) -> list[list[tuple[str, str]]]:
    """(item, reason) of each user."""
    ranker = Ranker(load_scorer(artifact), _catalogue(), ListSettings(**settings), artifact)
    lists, _ = ranker.lists(as_batch(users, CATEGORIES), k)
    pairs = list(
        zip(lists.rows["item_id"].to_pylist(), lists.rows["reason"].to_pylist(), strict=True)
    )
    scores = lists.rows["score"].to_numpy().reshape(-1, k)
    assert np.isfinite(scores).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    return [pairs[start : start + k] for start in range(0, len(pairs), k)]


def _user(met: str, *said: Event, market: str | None = None) -> User:
    user = User("u", market=market)
    return user.after([*(Event(n, item) for n, item in enumerate(met)), *said], None, 100)


def _only(source: str) -> Strategy:
    return Strategy(((source, 1.0),))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # b was met last: e, then what is like a.
        ("content", [("e", "content"), ("c", "content"), ("d", "content")]),
        # c after b; f and e after a; and a list that is too short is filled up.
        ("collaborative", [("c", "collaborative"), ("f", "collaborative"), ("e", "collaborative")]),
        ("popular", [("c", "popular"), ("d", "popular"), ("e", "popular")]),
        ("recent", [("g", "recent"), ("d", "recent"), ("c", "popular")]),
    ],
)
def test_one_source_by_hand(artifact: Path, source: str, expected: list[tuple[str, str]]) -> None:
    assert _lists(artifact, [_user("ab")], strategy=_only(source)) == [expected]


def test_the_model_as_the_one_source_ranks_as_it_does_without_a_strategy(artifact: Path) -> None:
    users = [_user("ab"), _user(""), _user("edc"), _user("g")]
    settings = {"max_per_category": 1, "exclude_seen": False}
    alone = _lists(artifact, users, **settings)
    others = ((1, (("model", 1.0),)), (2, (("popular", 1.0),)))
    by_length = Strategy(short_histories=others)
    found = _lists(artifact, users, strategy=by_length, **settings)
    assert found[:3] == alone[:3]
    assert [reason for _, reason in found[3]] == ["popular"] * 3  # who met one item


def test_rules_hold_for_every_source(artifact: Path) -> None:
    blend = Strategy(tuple((name, 1.0) for name in ("content", "popular", "recent")))
    plain, hides, damps = _lists(
        artifact,
        [
            _user("ab"), _user("ab", Event(9, "e", "hide"), Event(9, "g", "dislike")),
            _user("ab", Event(9, "c", "damp")),
        ],
        strategy=blend, k=4, category_damping=0.01,
    )  # fmt: skip
    assert {item for item, _ in plain} == {"c", "d", "e", "g"}
    assert {item for item, _ in hides} == {"c", "d", "f"} | {hides[3][0]}
    assert not {"e", "g"} & {item for item, _ in hides[:3]}
    assert damps[0] == ("e", "content")  # the others are of y
    (capped,) = _lists(artifact, [_user("ab")], strategy=blend, k=3, max_per_category=1)
    assert sorted(CATEGORIES[item] for item, _ in capped) == ["", "x", "y"]
    here = _lists(
        artifact, [_user("ab", market="de")], strategy=blend, k=4, default_market="de"
    )  # fmt: skip
    assert "c" not in {item for item, _ in here[0]}
    again = _lists(artifact, [_user("ab")], strategy=_only("popular"), exclude_seen=False)
    assert [item for item, _ in again[0]] == ["a", "b", "c"]


def test_the_reason_is_the_source_that_gave_most(artifact: Path) -> None:
    blend = Strategy((("content", 1.0), ("collaborative", 3.0)))
    (found,) = _lists(artifact, [_user("a")], strategy=blend, k=4)
    assert found == [
        ("f", "collaborative"), ("e", "collaborative"), ("c", "content"), ("d", "content")
    ]  # fmt: skip


def test_a_source_that_is_not_there_is_told(artifact: Path) -> None:
    write_neighbors({COLLABORATIVE: _near({})}, artifact.name, artifact)
    with pytest.raises(ArtifactError, match=r"no neighbors of the sources \['content'\]"):
        _lists(artifact, [_user("ab")], strategy=_only("content"))


def test_a_list_begins_as_a_longer_one(tmp_path: Path) -> None:
    """As when a service ranks for several who want lists of other lengths."""
    items = [f"i{n}" for n in range(300)]
    folder = write_artifact(random_artifact(items), tmp_path)
    nowhere = np.zeros(0, np.int64)
    catalogue = Catalogue(items, np.ones(300) / 300, np.full(300, -1), {"": nowhere}, [])
    strategy = Strategy((("model", 1.0), ("popular", 0.3)))
    ranker = Ranker(load_scorer(folder), catalogue, ListSettings(strategy=strategy), folder)
    users = as_batch([User("u").after([Event(0, item)], None, 9) for item in items[:20]], {})
    short, long = (
        np.array(ranker.lists(users, k)[0].rows["item_id"].to_pylist()).reshape(20, k)
        for k in (10, 100)
    )
    assert (short == long[:, :10]).all()
