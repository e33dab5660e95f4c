"""What histories' items say of others, and the file that says what is near what."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from recbole_llm.compress_artifact import compress_artifact
from recbole_llm.errors import ArtifactError
from recbole_llm.scoring import load_artifact, write_artifact
from recbole_llm.scoring.item_neighbors import (
    COLLABORATIVE,
    CONTENT,
    NEIGHBORS,
    ItemNeighbors,
    read_neighbors,
    write_neighbors,
)
from tests.data import random_artifact

NEAR = ItemNeighbors(
    np.array([[0, 0], [2, 3], [3, 0], [1, 2]], np.int32),
    np.array([[0, 0], [0.5, 0.25], [1.0, 0], [0.5, 0.5]], np.float32),
)


def test_votes_by_hand() -> None:
    rows, lengths = np.array([1, 2, 1]), np.array([2, 0, 1])
    owners, items, votes = NEAR.votes(rows, lengths)
    assert owners.tolist() == [0, 0, 2, 2]
    assert items.tolist() == [2, 3, 2, 3]
    # Of the first: 1 came before 2, so it has half a voice.
    assert votes == pytest.approx([0.25, 0.125 + 1.0, 0.5, 0.25])


def test_the_newest_ten_vote() -> None:
    rows = np.array([2, *[1] * 10])
    _, items, votes = NEAR.votes(rows, np.array([11]))
    assert items.tolist() == [2, 3]
    assert votes[1] == pytest.approx(0.25 * sum(1 / n for n in range(1, 11)))
    none = NEAR.votes(np.zeros(0, np.int64), np.array([0, 0]))
    assert [len(each) for each in none] == [0, 0, 0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_artifact(random_artifact(["a", "b", "c"]), tmp_path)


def test_what_was_written_is_read(folder: Path) -> None:
    artifact = load_artifact(folder)
    with pytest.raises(ArtifactError, match="has no neighbors.safetensors"):
        read_neighbors(folder, artifact)
    write_neighbors({CONTENT: NEAR, COLLABORATIVE: NEAR}, folder.name, folder)
    found = read_neighbors(folder, artifact)
    assert found.keys() == {CONTENT, COLLABORATIVE}
    for each in found.values():
        assert each.items.tolist() == NEAR.items.tolist()
        assert each.weights.tolist() == NEAR.weights.tolist()
    smaller = compress_artifact(folder, "int8")
    assert read_neighbors(smaller, load_artifact(smaller)).keys() == found.keys()


@pytest.mark.parametrize(
    ("items", "weights", "complaint"),
    [
        (NEAR.items[:3], NEAR.weights[:3], "for 4 rows"),
        (NEAR.items.astype(np.int64), NEAR.weights, "int64"),
        (NEAR.items + 1, NEAR.weights, "rows beyond 4"),
        (NEAR.items - 1, NEAR.weights, "rows beyond 4"),
        (NEAR.items, NEAR.weights - 1, "negative"),
        (NEAR.items, NEAR.weights * np.nan, "no numbers"),
        (NEAR.items, NEAR.weights[:, :1], "for 4 rows"),
    ],
)
def test_a_file_of_something_else_is_refused(
    folder: Path, items: np.ndarray, weights: np.ndarray, complaint: str
) -> None:
    write_neighbors({CONTENT: NEAR}, folder.name, folder)
    about = {"about": f'{{"format_version": "1", "model_version": "{folder.name}"}}'}
    tensors = {"content.items": items, "content.weights": weights.astype(np.float16)}
    save_file(tensors, folder / NEIGHBORS, metadata=about)
    with pytest.raises(ArtifactError, match=complaint):
        read_neighbors(folder, load_artifact(folder))


def test_a_file_of_another_artifact_or_cut_short_is_refused(folder: Path) -> None:
    write_neighbors({CONTENT: NEAR}, "another", folder)
    with pytest.raises(ArtifactError, match="its header tells"):
        read_neighbors(folder, load_artifact(folder))
    write_neighbors({CONTENT: NEAR}, folder.name, folder)
    content = (folder / NEIGHBORS).read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"\xff" * len(content)):
        (folder / NEIGHBORS).write_bytes(damaged)
        with pytest.raises(ArtifactError, match="is damaged"):
            read_neighbors(folder, load_artifact(folder))
