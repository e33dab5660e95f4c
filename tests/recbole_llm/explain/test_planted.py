"""Reasons that were planted are the reasons that are told.

A user meets a sign among items that mean nothing and, some steps later, a question, which the sign's
answer follows. So of the history two items alone decide what comes next, wherever they stand.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from recbole_llm.explain.history import leave_out
from recbole_llm.scoring import Scorer, load_scorer, why
from recbole_llm.train import train
from tests.data import write_atomic

N_SIGNS, N_NOISE, LENGTH = 4, 12, 10


def _walk(user: int, length: int, generator: np.random.Generator) -> list[str]:
    """Noise with a sign in it and the question, ``length`` items; the answer; and two more, which
    RecBole holds out."""
    noise = [f"n{n}" for n in generator.permutation(N_NOISE)]
    sign = user % N_SIGNS
    before = noise[: length - 2]
    before.insert(int(generator.integers(length - 1)), f"s{sign}")
    return [*before, "question", f"a{sign}", *noise[-2:]]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("planted")
    generator = np.random.default_rng(0)
    walks = {
        f"u{n}": _walk(n, int(generator.integers(4, LENGTH + 1)), generator) for n in range(512)
    }
    write_atomic(folder, "signs", walks)
    settings = {
        "hidden_size": 16, "n_layers": 1, "inner_size": 32, "learning_rate": 0.01, "epochs": 40,
        "MAX_ITEM_LIST_LENGTH": 12, "train_batch_size": 64, "item_repr": "id", "n_targets": 1,
        "ema_decay": 0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "eval_step": 0,
        "initializer_range": 0.1,
        "data_path": str(folder), "artifact_dir": str(folder / "artifacts"),
        "checkpoint_dir": str(folder / "saved"),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        artifact = train("LLMSeqRec", "signs", None, settings).artifact
    assert artifact is not None
    return load_scorer(artifact)


@pytest.fixture(scope="module")
def histories(planted: Scorer) -> NDArray[np.int64]:
    """(B, L) rows of what comes before an answer."""
    generator = np.random.default_rng(1)
    walks = [_walk(user, LENGTH, generator)[:LENGTH] for user in range(80)]
    return np.array([[planted.row(item) for item in walk] for walk in walks])


@pytest.fixture(scope="module")
def ranked(planted: Scorer, histories: NDArray[np.int64]) -> NDArray[np.int64]:
    """(B, 1) rows of the first ranks."""
    return planted.rank(histories.ravel(), np.full(len(histories), LENGTH), 1)[0]


def test_the_planted_two_are_named(
    planted: Scorer, histories: NDArray[np.int64], ranked: NDArray[np.int64]
) -> None:
    ids = planted.artifact.item_ids
    is_right = [ids[row - 1] == f"a{user % N_SIGNS}" for user, row in enumerate(ranked[:, 0])]
    assert np.mean(is_right) > 0.95
    question = planted.row("question")
    reasons = [{planted.row(f"s{user % N_SIGNS}"), question} for user in range(len(histories))]
    named = why(planted, histories.ravel(), np.full(len(histories), LENGTH), ranked).rows[:, 0]
    left_out = [
        history[np.argsort(-leave_out(planted, history.tolist(), item))[:2]]
        for history, item in zip(histories, ranked[:, 0].tolist(), strict=True)
    ]
    for found in (named, np.array(left_out)):
        is_both = [set(two) == both for two, both in zip(found.tolist(), reasons, strict=True)]
        # Three signs of four are enough to know: without any of them the answer is the fourth's.
        assert np.mean(is_both) >= 0.7


def test_deleting_what_is_named_costs_more_than_deleting_at_random(
    planted: Scorer, histories: NDArray[np.int64], ranked: NDArray[np.int64]
) -> None:
    lengths = np.full(len(histories), LENGTH)
    named = why(planted, histories.ravel(), lengths, ranked).rows[:, 0]
    generator = np.random.default_rng(2)
    at_random = np.array([generator.permutation(history)[:2] for history in histories])

    def mean_fall(out: NDArray[np.int64]) -> float:
        """Of the scores without those rows, by the model itself."""
        left = histories[(histories[:, :, None] != out[:, None]).all(2)]
        after = planted.score(left, lengths - 2, ranked)
        return float((planted.score(histories.ravel(), lengths, ranked) - after).mean())

    assert mean_fall(named) > 2 * mean_fall(at_random)
