import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recbole_llm.errors import ArtifactError
from recbole_llm.scoring import load_artifact, load_scorer, write_artifact
from tests.data import random_artifact

IDS = ["a", "b", "c"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_artifact(random_artifact(IDS), tmp_path / "artifacts")


def test_what_is_written_is_read(path: Path) -> None:
    written, read = random_artifact(IDS), load_artifact(path)
    assert (read.item_ids, read.titles) == (IDS, ["Title of a", "Title of b", "Title of c"])
    assert read.sequence_config == written.sequence_config
    torch.testing.assert_close(read.item_matrix, written.item_matrix, rtol=0, atol=0)
    assert read.encoder_weights.keys() == written.encoder_weights.keys()
    assert read.model_version == path.name


def test_a_folder_is_named_by_its_content(path: Path) -> None:
    root = path.parent
    assert write_artifact(random_artifact(IDS), root) == path
    assert write_artifact(random_artifact(IDS, seed=1), root) != path
    assert sorted(entry.name[0] == "." for entry in root.iterdir()) == [False, False]


@pytest.mark.parametrize("name", ["model.safetensors", "items.json"])
def test_tampered(path: Path, name: str) -> None:
    content = bytearray((path / name).read_bytes())
    content[-3] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"is damaged: {name} has SHA-256"):
        load_scorer(path)


@pytest.mark.parametrize("name", ["model.safetensors", "items.json"])
def test_truncated(path: Path, name: str) -> None:
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=f"is damaged: {name}"):
        load_scorer(path)


def test_newer_format(path: Path) -> None:
    index = json.loads((path / "artifact.json").read_text())
    (path / "artifact.json").write_text(json.dumps({**index, "format_version": 5}))
    with pytest.raises(ArtifactError, match="has artifact format 5, this version reads 3 and 4"):
        load_scorer(path)


def test_missing_parts(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact at .*nowhere"):
        load_scorer(tmp_path / "nowhere")
    (path / "items.json").unlink()
    with pytest.raises(ArtifactError, match=r"is incomplete: items.json is missing"):
        load_scorer(path)


def test_counts_are_read_where_they_are_told(tmp_path: Path) -> None:
    counted = replace(random_artifact(IDS), n_events=[3, 0, 7])
    assert load_artifact(write_artifact(counted, tmp_path)).n_events == [3, 0, 7]


@pytest.mark.parametrize("counts", [[1, 2], [1, -1, 2], [1, 2, 2**63]])
def test_counts_that_do_not_fit(tmp_path: Path, counts: list[int]) -> None:
    path = write_artifact(replace(random_artifact(IDS), n_events=counts), tmp_path)
    with pytest.raises(ArtifactError, match=r"items.json has \d n_events .* expected 3 from 0 to"):
        load_artifact(path)


def test_counts_that_are_no_numbers(tmp_path: Path) -> None:
    path = write_artifact(replace(random_artifact(IDS), n_events=["many", 1, 2]), tmp_path)  # type: ignore[list-item]
    with pytest.raises(ArtifactError, match="must hold texts, and as n_events integers"):
        load_artifact(path)


def test_index_that_is_no_json(path: Path) -> None:
    (path / "artifact.json").write_text('{"format_version": 1,')
    with pytest.raises(ArtifactError, match=r"artifact.json is damaged, it is not JSON"):
        load_scorer(path)


def test_item_matrix_of_another_size(tmp_path: Path) -> None:
    artifact = random_artifact(IDS)
    artifact.item_ids.append("d")
    artifact.titles.append("")
    path = write_artifact(artifact, tmp_path)
    with pytest.raises(
        ArtifactError, match=r"are \(\(4, 16\), \(4,\), 4\), its items .* \(\(5, 16\)"
    ):
        load_scorer(path)


def test_a_planted_pickle_is_not_read(path: Path) -> None:
    marker = path / "ran"
    (path / "model.pth").write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    load_scorer(path)
    assert not marker.exists()
