import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.compress_artifact import compress_artifact
from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.scoring import load_artifact, load_scorer, write_artifact
from recbole_llm.scoring.matrix import pack_matrix, unpack_matrix
from tests.data import random_artifact

IDS = [f"i{n}" for n in range(300)]
LARGEST = {"float16": 1024, "int8": 127, "int6": 31}
"""Steps in a row's largest entry, at the worst."""
BYTES = {"float16": 2 * 16, "int8": 16 + 2, "int6": 12 + 2}
"""Of an item with 16 entries."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_artifact(random_artifact(IDS), tmp_path / "artifacts")


@pytest.mark.parametrize("stored", LARGEST)
def test_a_row_is_off_by_half_a_step(stored: str) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(70_000, 3) * torch.logspace(-12, 2, 70_000).unsqueeze(1)
    if stored == "float16":  # which knows no numbers so small
        matrix = matrix[60_000:]
    matrix[0] = 0
    read = unpack_matrix(pack_matrix(matrix, stored), stored, 3)
    # Half a step, and at the largest entry what the rounding of the scale takes off, 2^-9 of it.
    allowed = matrix.abs().amax(1) * (0.5 / LARGEST[stored] + 2**-9)
    assert ((read - matrix).abs().amax(1) <= allowed).all()
    assert (read[0] == 0).all()


def test_six_bits_by_hand() -> None:
    packed = pack_matrix(torch.tensor([[31.0, -31.0, 0.0]]), "int6")
    # 62, 0 and 31 as 111110 000000 011111, filled up with zeros
    assert packed["item_matrix"].tolist() == [[0b11111000, 0b00000111, 0b11000000]]
    assert packed["item_scales"].tolist() == [1.0]
    assert unpack_matrix(packed, "int6", 3).tolist() == [[31.0, -31.0, 0.0]]


@pytest.mark.parametrize("stored", ["int8", "int6"])
def test_rows_and_scales_that_differ_are_refused(stored: str) -> None:
    packed = pack_matrix(torch.randn(4, 3), stored)
    for name, tensor in (
        ("item_scales", packed["item_scales"][:3]),
        ("item_scales", packed["item_scales"].view(2, 2)),
        ("item_matrix", packed["item_matrix"][:, :2]),
        ("item_matrix", packed["item_matrix"].flatten()),
    ):
        with pytest.raises(
            ValueError, match=f"an item matrix in {stored} has 3 numbers and a scale"
        ):
            unpack_matrix({**packed, name: tensor}, stored, 3)


@pytest.mark.parametrize("stored", LARGEST)
def test_the_compressed_artifact_ranks_alike(path: Path, stored: str) -> None:
    smaller = compress_artifact(path, stored)
    plain, compressed = load_scorer(path), load_scorer(smaller)
    assert (compressed.artifact.stored, compressed.artifact.item_ids) == (stored, IDS)
    sequences = [IDS[start : start + 4] for start in range(100)]
    before, after = (scorer.top_k(sequences, 10) for scorer in (plain, compressed))
    same = [len(set(a) & set(b)) for a, b in zip(before.item_ids, after.item_ids, strict=True)]
    assert np.mean(same) > (9 if stored == "int6" else 9.5)


@pytest.mark.parametrize("stored", LARGEST)
def test_bytes_of_an_item(path: Path, stored: str) -> None:
    sizes = [
        (folder / "model.safetensors").stat().st_size
        for folder in (path, compress_artifact(path, stored))
    ]
    # Up to the head of the file, which names one tensor more.
    assert abs(sizes[0] - sizes[1] - 301 * (4 * 16 - BYTES[stored])) < 150


def test_its_index_says_so(path: Path) -> None:
    smaller = compress_artifact(path, "int8")
    index = json.loads((smaller / "artifact.json").read_text())
    assert (index["format_version"], index["item_matrix"]) == (4, "int8")
    assert index["compressed_from"] == path.name
    assert index["model_version"] == smaller.name == load_artifact(smaller).model_version
    assert smaller.parent == path.parent
    assert json.loads((path / "artifact.json").read_text())["format_version"] == 3


def test_what_training_starts_from_goes_along(path: Path, tmp_path: Path) -> None:
    (path / "training.safetensors").write_bytes(b"state")
    smaller = compress_artifact(path, "int8", tmp_path / "elsewhere")
    assert smaller.parent == tmp_path / "elsewhere"
    assert (smaller / "training.safetensors").read_bytes() == b"state"
    assert sorted(file.name for file in smaller.iterdir()) == [
        "artifact.json", "items.json", "model.safetensors", "training.safetensors"
    ]  # fmt: skip


def test_compressed_twice(path: Path) -> None:
    smaller = compress_artifact(path, "int8")
    with pytest.raises(ArtifactError, match=f"compressed already, .* int8; .* {path.name}"):
        compress_artifact(smaller, "int6")


def test_no_such_way(path: Path) -> None:
    with pytest.raises(ConfigError, match="matrix must be one of .* got 'int3'"):
        compress_artifact(path, "int3")


def test_half_precision_that_ends_too_soon() -> None:
    with pytest.raises(ArtifactError, match="an entry of size 7e\\+04 and float16 ends at 65504"):
        pack_matrix(torch.tensor([[70_000.0]]), "float16")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("int6", "an item matrix in int6 has entries of uint8, not torch.int8"),
        ("int3", "stored as one of .* not 'int3'"),
    ],
)
def test_an_index_that_says_another_way(path: Path, said: str, message: str) -> None:
    smaller = compress_artifact(path, "int8")
    index = json.loads((smaller / "artifact.json").read_text())
    (smaller / "artifact.json").write_text(json.dumps({**index, "item_matrix": said}))
    with pytest.raises(ArtifactError, match=message):
        load_scorer(smaller)


def test_a_full_disk_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recbole_llm.scoring.artifact.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        compress_artifact(path, "int8")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
