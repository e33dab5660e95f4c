"""Which history items carried a list's scores, in batches."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from recbole_llm.explain.history import gradient
from recbole_llm.scoring import Scorer, Why, why
from tests.data import SEQUENCE, random_artifact

IDS = [f"i{n}" for n in range(30)]
NAMES = [f"Title of {item}" for item in IDS]


@pytest.fixture(scope="module", params=["dot", "cosine"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return Scorer(random_artifact(IDS, config=replace(SEQUENCE, score=request.param, n_layers=2)))


def _histories(n: int) -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(1, 31, size=length % 9).tolist() for length in range(n)]


def _flat(histories: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array([row for history in histories for row in history], dtype=np.int64)
    return rows, np.array([len(history) for history in histories])


def _by_hand(scorer: Scorer, history: list[int], item: int) -> dict[int, float]:
    """The share of each item of a history, by captum on one sequence."""
    read = history[-SEQUENCE.max_seq_length :]
    of_item: dict[int, float] = {}
    for row, each in zip(read, gradient(scorer, read, item).tolist(), strict=True):
        of_item[row] = of_item.get(row, 0.0) + each
    return of_item


def test_against_one_sequence_at_a_time(scorer: Scorer) -> None:
    histories = _histories(150)  # more than are read at once
    rows, lengths = _flat(histories)
    ranked, _ = scorer.rank(rows, lengths, 3)
    found = why(scorer, rows, lengths, ranked, n_named=2)
    assert found.rows.shape == found.gains.shape == (150, 3, 2)
    n_named = 0
    for user, history in list(enumerate(histories))[::4]:
        for rank in range(3):
            if not history:
                assert not found.rows[user].any()
                continue
            of_item = _by_hand(scorer, history, ranked[user, rank])
            best = sorted(of_item, key=lambda row: -of_item[row])[:2]
            least = max(0.1 * of_item[best[0]], 0.0)
            expected = [row for row in best if of_item[row] > least]
            assert [row for row in found.rows[user, rank].tolist() if row] == expected
            gains = found.gains[user, rank, : len(expected)]
            np.testing.assert_allclose(gains, [of_item[row] for row in expected], atol=1e-4)
            assert not found.gains[user, rank, len(expected) :].any()
            n_named += len(expected)
    assert n_named > 100


def test_places_without_an_item_are_not_explained(scorer: Scorer) -> None:
    rows, lengths = _flat([[1, 2, 3], [4]])
    found = why(scorer, rows, lengths, np.array([[9, 0], [0, 0]]))
    assert not found.rows[0, 1].any()
    assert not found.rows[1].any()
    assert found.sentences(NAMES)[1] == ["", ""]
    nothing = why(scorer, rows[:0], np.array([0, 0]), np.array([[9, 3], [4, 2]]))
    assert nothing.rows.shape == (2, 2, 2)
    assert not nothing.rows.any()
    assert why(scorer, rows[:0], lengths[:0], np.zeros((0, 3), np.int64)).sentences(NAMES) == []


def test_sentences() -> None:
    rows = np.array([[[3, 1], [2, 0], [0, 0]]])
    assert Why(rows, np.zeros(rows.shape, np.float32)).sentences(NAMES) == [
        ["because of Title of i2 and Title of i0", "because of Title of i1", ""]
    ]


def test_needs_no_captum() -> None:
    code = (
        "import sys, recbole_llm.scoring.why\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'captum', 'recbole', 'transformers', 'pandas', 'sklearn'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
