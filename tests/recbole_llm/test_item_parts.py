"""What an item's vector is made of, kept beside an artifact."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llm.compress_artifact import compress_artifact
from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.errors import ArtifactError
from recbole_llm.export import export_artifact, item_parts
from recbole_llm.item_parts import PARTS, ItemParts, read_parts
from recbole_llm.model import LLMSeqRec
from recbole_llm.scoring import load_artifact
from recbole_llm.train import build_config, build_data
from tests.data import write_cycle

_SMALL = {"hidden_size": 16, "n_layers": 1, "inner_size": 16, "text_size": 8}


def _model(folder: Path, **settings: Any) -> tuple[LLMSeqRec, LLMSeqRecDataset, Any]:
    write_cycle(folder)
    given = {
        **_SMALL, "data_path": str(folder), "text_cache": str(folder / "cache.sqlite"), **settings
    }  # fmt: skip
    config = build_config("LLMSeqRec", "cycle", None, given)
    dataset, loaders = build_data(config)
    torch.manual_seed(0)
    return LLMSeqRec(config, loaders[0]._dataset).eval(), dataset, config


def _exported(folder: Path, **settings: Any) -> Path:
    model, dataset, config = _model(folder, **settings)
    return export_artifact(model, dataset, config, {}, folder / "artifacts")


def _read(path: Path) -> tuple[ItemParts, torch.Tensor]:
    artifact = load_artifact(path)
    return read_parts(path, artifact), artifact.item_matrix


def test_parts_are_the_model_s_and_add_up(tmp_path: Path, tiny_encoders: dict[str, Path]) -> None:
    bert = str(tiny_encoders["bert"])
    model, dataset, config = _model(tmp_path, encoder=f"{bert}+tfidf")
    path = export_artifact(model, dataset, config, {}, tmp_path / "artifacts")
    read, items = _read(path)
    parts = read.of(torch.arange(len(items)), items)
    assert list(parts) == ["id", bert, "tfidf"]
    torch.testing.assert_close(parts["id"] + parts[bert] + parts["tfidf"], items)
    vectors, adaptor = model.catalogue.text_vectors, model.scoring_network.items.adaptor
    assert vectors is not None
    assert adaptor is not None
    width = len(model.text_maps[0].offset)
    for name, columns in ((bert, slice(0, width)), ("tfidf", slice(width, None))):
        made = (vectors[:, columns] @ adaptor.weight[:, columns].T).detach()
        # Half precision keeps eleven bits, of vectors and of the map of words.
        torch.testing.assert_close(parts[name], made, atol=2e-3 * float(made.abs().max()), rtol=0)
        mean = read.means(items)[name][0]
        torch.testing.assert_close(mean, parts[name][1:].mean(0), atol=1e-6, rtol=1e-4)
    row = load_artifact(path).item_ids.index("i3") + 1
    assert read.text(row) == "Film i3 of the cycle"
    assert read.text(0) == ""


def test_a_text_is_read_as_the_item_s_was(tmp_path: Path, tiny_encoders: dict[str, Path]) -> None:
    """The kept map leads from what an encoder says to the kept part."""
    from recbole_llm.encoder import EncoderSpec
    from recbole_llm.text_encoder import TextEncoder

    bert = str(tiny_encoders["bert"])
    read, _ = _read(_exported(tmp_path, encoder=bert))
    encoder = TextEncoder(Path(bert), EncoderSpec(bert), "cpu")
    (source,) = read.sources
    said = torch.from_numpy(encoder.encode(read.texts))
    assert source.vectors is not None
    kept = source.vectors[1:].float()
    made = said @ source.matrix + source.offset
    torch.testing.assert_close(made, kept, atol=2e-3 * float(kept.abs().max()), rtol=0)


def test_without_ids_and_without_texts(tmp_path: Path) -> None:
    read, items = _read(_exported(tmp_path / "text", encoder="tfidf", item_repr="text"))
    parts = read.of(torch.tensor([0, 3]), items)
    assert not parts["id"].any()
    torch.testing.assert_close(parts["tfidf"], items[[0, 3]])
    read, items = _read(_exported(tmp_path / "id", item_repr="id"))
    assert list(read.of(torch.tensor([3]), items)) == ["id"]


def test_a_mixture_does_not_add_up(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"encoder": "tfidf", "adaptor": "moe"}
    model, dataset, _ = _model(tmp_path, **settings)
    assert item_parts(model, dataset) is None
    path = _exported(tmp_path, **settings)
    with pytest.raises(ArtifactError, match=r"has no explanation.json: the mixture .* \(moe\)"):
        read_parts(path, load_artifact(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return _exported(tmp_path, encoder="tfidf")


def test_an_artifact_of_before(path: Path) -> None:
    for name in PARTS:
        (path / name).unlink()
    with pytest.raises(ArtifactError, match=r"no explanation.json: it is of an older version"):
        read_parts(path, load_artifact(path))


def test_damaged(path: Path) -> None:
    artifact = load_artifact(path)
    index, tensors = (path / name for name in PARTS)
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"explanation.safetensors is damaged: its SHA-256"):
        read_parts(path, artifact)
    tensors.write_bytes(whole)
    content = json.loads(index.read_text())
    for change, message in (
        ({"format_version": 3}, "format 3, this version reads 1 and 2"),
        ({"model_version": "other"}, "is of artifact 'other', not of"),
        ({"texts": ["one"]}, "has 1 texts for 13 items"),
        ({"sources": [{}]}, "cannot be read: KeyError"),
    ):
        index.write_text(json.dumps({**content, **change}))
        with pytest.raises(ArtifactError, match=message):
            read_parts(path, artifact)
    index.write_text("{")
    with pytest.raises(ArtifactError, match="is damaged, it is not JSON"):
        read_parts(path, artifact)


def test_another_artifact_s(path: Path, tmp_path: Path) -> None:
    other = _exported(tmp_path, encoder="tfidf", hidden_size=8)
    for name in PARTS:
        shutil.copy(path / name, other / name)
    with pytest.raises(ArtifactError, match=f"is of artifact '{path.name}', not of {other.name}"):
        read_parts(other, load_artifact(other))


def test_a_compressed_artifact_has_them_too(path: Path) -> None:
    smaller = compress_artifact(path, "int8")
    read, items = _read(smaller)
    whole = sum(read.of(torch.arange(len(items)), items).values())
    torch.testing.assert_close(whole, items)
