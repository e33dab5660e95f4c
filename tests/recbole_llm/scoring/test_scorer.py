import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.errors import ArtifactError, DataError
from recbole_llm.layers import SequenceEncoder
from recbole_llm.scoring import Scorer, row_scorer
from tests.data import SEQUENCE, random_artifact

IDS = [f"i{n}" for n in range(30)]


@pytest.fixture(scope="module")
def ranker() -> Scorer:
    return Scorer(random_artifact(IDS))


def _reference(seq: Sequence[str], k: int, exclude: set[str]) -> list[str]:
    """Rank one sequence by a plain product in float64."""
    artifact = random_artifact(IDS)
    encoder = SequenceEncoder(SEQUENCE)
    encoder.load_state_dict(artifact.encoder_weights)
    rows = [IDS.index(item) + 1 for item in seq if item in IDS][-SEQUENCE.max_seq_length :]
    with torch.no_grad():
        state = encoder.eval().double()(
            artifact.item_matrix.double()[rows], torch.tensor([len(rows)])
        )[-1]
    scores = artifact.item_matrix.double()[1:] @ state + artifact.item_bias[1:]
    for row in set(rows):  # the last item's bias is 10 * 0.3, an older one's 10 * -0.2
        scores[row - 1] += 3.0 if row == rows[-1] else -2.0
    order = [IDS[row] for row in scores.argsort(descending=True, stable=True)]
    return [item for item in order if item not in exclude][:k]


@settings(max_examples=60, deadline=None)
@given(
    seqs=st.lists(
        st.lists(st.sampled_from([*IDS, "unknown"]), max_size=12), min_size=1, max_size=5
    ),
    exclude=st.booleans(),
    k=st.integers(1, 10),
)
def test_ranks_equal_a_float64_reference(seqs: list[list[str]], exclude: bool, k: int) -> None:
    top = Scorer(random_artifact(IDS)).top_k(seqs, k, exclude_seen=exclude)
    for seq, items, values in zip(seqs, top.item_ids, top.scores, strict=True):
        if any(item in IDS for item in seq):
            assert items == _reference(seq, k, set(seq) if exclude else set())
            assert (np.diff(values) <= 0).all()
        else:
            assert (items, len(values)) == ([], 0)
    assert top.n_unknown == sum(item == "unknown" for seq in seqs for item in seq)


@settings(max_examples=40, deadline=None)
@given(
    seqs=st.lists(
        st.lists(st.sampled_from([*IDS, "unknown"]), max_size=12), min_size=1, max_size=5
    ),
    k=st.integers(1, 10),
)
def test_a_stored_history_ranks_as_the_history_does(
    ranker: Scorer, seqs: list[list[str]], k: int
) -> None:
    vectors = ranker.encode_history(seqs)
    assert vectors.shape == (len(seqs), SEQUENCE.hidden_size)
    assert np.isnan(vectors).all(1).tolist() == [not set(seq) & set(IDS) for seq in seqs]
    decoded, whole = ranker.decode(vectors, k, seen=seqs), ranker.top_k(seqs, k)
    assert decoded.item_ids == whole.item_ids
    for one, other in zip(decoded.scores, whole.scores, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_decode_without_history_and_with_a_choice(ranker: Scorer) -> None:
    vectors = ranker.encode_history([IDS[:3]])
    state, artifact = torch.from_numpy(vectors[0]), ranker.artifact
    scores = artifact.item_matrix[1:] @ state + artifact.item_bias[1:]
    best = IDS[int(scores.argmax())]
    assert ranker.decode(vectors, 1).item_ids == [[best]]
    assert ranker.decode(vectors, 1, eligible=["i7"]).item_ids == [["i7"]]
    with pytest.raises(DataError, match=r"vectors must be \(B, 16\).* got \(1, 3\)"):
        ranker.decode(vectors[:, :3], 1)
    with pytest.raises(DataError, match="k=2 items were asked for, but 1 of 1 eligible"):
        ranker.decode(vectors, 2, eligible=["i7"])


def test_batch_equals_single(ranker: Scorer) -> None:
    seqs = [[IDS[(7 * n + step) % 30] for step in range(1 + n % 8)] for n in range(40)]
    together = ranker.top_k(seqs, 5)
    for n, seq in enumerate(seqs):
        alone = ranker.top_k([seq], 5)
        assert alone.item_ids[0] == together.item_ids[n]
        np.testing.assert_allclose(alone.scores[0], together.scores[n], atol=1e-5)


def test_small_batches_change_nothing(ranker: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seqs = [[IDS[n], IDS[n + 3]][: n % 3] for n in range(10)]
    whole = ranker.top_k(seqs, 7)
    monkeypatch.setattr(row_scorer, "_BATCH", 3)
    assert ranker.top_k(seqs, 7).item_ids == whole.item_ids


def test_items_beyond_the_window_are_seen_but_not_read(ranker: Scorer) -> None:
    recent = IDS[:5]
    top, longer = ranker.top_k([recent], 25), ranker.top_k([[IDS[20], *recent]], 24)
    assert longer.item_ids[0] == [item for item in top.item_ids[0] if item != IDS[20]]


def test_only_eligible_items(ranker: Scorer) -> None:
    top = ranker.top_k([["i0"]], 3, eligible=["i1", "i2", "i0", "i9", "other market"])
    assert sorted(top.item_ids[0]) == ["i1", "i2", "i9"]


@pytest.mark.parametrize(
    ("seq", "eligible", "message"),
    [
        (IDS[:28], None, "k=3 items were asked for, but 2 of 30 eligible"),
        (["i0"], ["i0", "i1", "i2"], "k=3 items were asked for, but 2 of 3 eligible"),
    ],
)
def test_too_few_items_left(
    ranker: Scorer, seq: list[str], eligible: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ranker.top_k([seq], 3, eligible=eligible)


def test_seen_items_that_are_not_eligible_do_not_count(ranker: Scorer) -> None:
    eligible = ["i0", "i1", "i2"]
    for choice in (eligible, ranker.among(eligible)):
        assert sorted(ranker.top_k([["i9"]], 3, eligible=choice).item_ids[0]) == eligible


def test_weights_of_another_network() -> None:
    artifact = random_artifact(IDS)
    del artifact.encoder_weights["output_norm.bias"]
    with pytest.raises(ArtifactError, match="weights do not fit the network"):
        Scorer(artifact)


def test_needs_neither_recbole_nor_transformers() -> None:
    code = (
        "import sys, recbole_llm.scoring\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'recbole', 'transformers', 'pyspark', 'pandas', 'ray', 'sklearn'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
