"""Three views of what carried a score, against the scores themselves."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_llm.explain.history import attention, gradient, leave_out
from recbole_llm.scoring import Scorer
from tests.data import SEQUENCE, random_artifact

IDS = [f"i{n}" for n in range(30)]


@pytest.fixture(scope="module", params=["dot", "cosine"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    config = replace(SEQUENCE, score=request.param, n_layers=2)
    return Scorer(random_artifact(IDS, config=config))


def _score(scorer: Scorer, rows: list[int], item: int) -> float:
    """By ranking everything, repeats included."""
    top = scorer.top_k([[IDS[row - 1] for row in rows]], len(IDS), exclude_seen=False)
    return float(top.scores[0][top.item_ids[0].index(IDS[item - 1])])


@pytest.mark.parametrize(
    ("rows", "item"),
    [
        ([3, 1, 4], 9),
        ([7], 2),
        ([7, 8, 2], 8),  # which gains by having been met
        ([5, 3, 5, 4], 9),  # an item that stands twice is left out twice
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 20),  # older than what is read: it moves in
    ],
)
def test_leaving_out_is_the_difference_of_scores(
    scorer: Scorer, rows: list[int], item: int
) -> None:
    falls = leave_out(scorer, rows, item)
    whole = _score(scorer, rows, item)
    for row, fall in zip(rows, falls, strict=True):
        left = [each for each in rows if each != row]
        bias = float(scorer.artifact.item_bias[item])
        without = _score(scorer, left, item) if left else bias
        assert fall == pytest.approx(whole - without, abs=1e-4)
    assert np.abs(falls[: -SEQUENCE.max_seq_length]).sum() < 1e-4  # what is not read


def test_scores_of_given_items_are_those_of_their_ranks(scorer: Scorer) -> None:
    rows, lengths = np.array([3, 1, 4, 7, 7, 8]), np.array([3, 0, 1, 2])
    items = np.array([[9, 4], [9, 4], [7, 1], [7, 30]])
    found = scorer.score(rows, lengths, items)
    for user, history in enumerate(np.split(rows, lengths.cumsum()[:-1])):
        for column in range(2):
            expected = (
                _score(scorer, history.tolist(), items[user, column])
                if len(history)
                else scorer.artifact.item_bias[items[user, column]]
            )
            assert found[user, column] == pytest.approx(float(expected), abs=1e-4)


def test_gradient_times_input_shares_the_score_out(scorer: Scorer) -> None:
    """With neither positions nor biases there is nobody else to share with."""
    bare = copy.deepcopy(scorer)
    with torch.no_grad():
        bare.sequence_encoder.position_embedding.weight.zero_()
        for name, weight in bare.sequence_encoder.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
    for read, item in (([3, 1, 4], 9), ([7, 8, 2, 7, 5], 21), ([6], 6)):
        bias = bare.artifact.item_bias[item]
        plain = bare.decode(bare.encode_history([[IDS[row - 1] for row in read]]), len(IDS))
        score = plain.scores[0][plain.item_ids[0].index(IDS[item - 1])] - bias
        assert gradient(bare, read, item).sum() == pytest.approx(float(score), abs=1e-3)


def test_attention_looks_back_and_adds_up(scorer: Scorer) -> None:
    read = [3, 1, 4, 7]
    maps = attention(scorer, read)
    assert maps.shape == (2, 2, 4, 4)
    torch.testing.assert_close(maps.sum(3), torch.ones(2, 2, 4))
    assert (maps.triu(1) == 0).all()
    # A place looks the same way whatever comes after it.
    torch.testing.assert_close(attention(scorer, read[:3]), maps[:, :, :3, :3])
