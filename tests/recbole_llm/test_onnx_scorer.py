from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import Tensor

from recbole_llm import onnx_scorer as module
from recbole_llm.compress_artifact import compress_artifact
from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.onnx_scorer import export_scorer
from recbole_llm.scoring import load_scorer, write_artifact
from tests.data import random_artifact

IDS = [f"i{n}" for n in range(30)]
SEQUENCES = [["i3"], ["i1", "i2", "i3", "i4", "i5"], ["i9", "i8"]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_artifact(random_artifact(IDS), tmp_path / "artifacts")


@pytest.mark.parametrize("compressed", [False, True])
def test_states_rank_as_the_scorer_does(path: Path, tmp_path: Path, compressed: bool) -> None:
    artifact = compress_artifact(path, "int8") if compressed else path
    file = export_scorer(artifact, tmp_path / "deep" / "states.onnx")
    scorer = load_scorer(artifact)
    item_seq = np.zeros((3, 5), dtype=np.int64)
    for row, sequence in zip(item_seq, SEQUENCES, strict=True):
        row[: len(sequence)] = [scorer.row(item) for item in sequence]
    lengths = np.array([1, 5, 2])
    session = onnxruntime.InferenceSession(str(file))
    (states,) = session.run(None, {"item_seq": item_seq, "length": lengths})
    scores = states @ scorer.artifact.item_matrix.numpy().T + scorer.artifact.item_bias.numpy()
    for row, sequence in zip(scores, SEQUENCES, strict=True):
        row[[0, *(scorer.row(item) for item in sequence)]] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :7]
    expected = scorer.top_k(SEQUENCES, 7)
    assert [[IDS[row - 1] for row in rows] for rows in best] == expected.item_ids
    np.testing.assert_allclose(
        np.take_along_axis(scores, best, 1), np.stack(expected.scores), atol=1e-4
    )
    # One alone, and without its padding.
    (alone,) = session.run(None, {"item_seq": item_seq[2:, :2], "length": lengths[2:]})
    np.testing.assert_allclose(alone, states[2:], atol=1e-5)
    assert [entry.name for entry in file.parent.iterdir()] == ["states.onnx"]


def test_the_file_says_whose_it_is(path: Path, tmp_path: Path) -> None:
    model = onnx.load(export_scorer(path, tmp_path / "states.onnx"))
    said = {prop.key: prop.value for prop in model.metadata_props}
    assert said == {"model_version": path.name, "max_seq_length": "5"}


def test_states_that_differ_are_not_written(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = module._States.forward

    def other(self: module._States, item_seq: Tensor, length: Tensor) -> Tensor:
        return forward(self, item_seq, length) + 2e-4

    monkeypatch.setattr(module._States, "forward", other)
    with pytest.raises(ArtifactError, match=r"states in ONNX are off by 0.0002, over 0.0001"):
        export_scorer(path, tmp_path / "states.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifacts"]


def test_a_file_that_is_there_stays(path: Path, tmp_path: Path) -> None:
    (tmp_path / "states.onnx").write_text("mine")
    with pytest.raises(ConfigError, match="states.onnx exists; name a new file"):
        export_scorer(path, tmp_path / "states.onnx")


def test_too_many_items_for_one_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LARGEST", 100)
    with pytest.raises(ArtifactError, match="an ONNX file holds 2"):
        export_scorer(path, tmp_path / "states.onnx")
