"""Preferences that only pictures show, or only sounds, and items that have neither.

Titles are numbers, so a text tells nothing. Users meet items of one kind alone, by colour or by pitch;
some items of each kind nobody has met, and those are ranked.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recbole_llm.catalogue import build_catalogue
from recbole_llm.errors import ArtifactError, ConfigError, DataError
from recbole_llm.explain.command import explain
from recbole_llm.explain.explainer import Explainer
from recbole_llm.export import export_artifact
from recbole_llm.item_parts import read_parts
from recbole_llm.layers import ItemEncoder
from recbole_llm.model import LLMSeqRec
from recbole_llm.scoring import Scorer, load_artifact, load_scorer
from recbole_llm.train import build_config, build_data, train
from recbole_llm.warehouse import Warehouse
from recbole_llm.warm_start import start_warm, write_training_state
from tests.data import write_atomic
from tests.media import as_uri, picture, sound

_COLOURS = [(220, 40, 40), (40, 200, 60), (50, 70, 220), (230, 210, 40)]
_PITCHES = [200.0, 500.0, 1_100.0, 2_400.0]
_N_KINDS, _N_MET, _N_COLD = 4, 12, 8


def _kind(item: str) -> int:
    return int(item.split("-")[1])


_MET = [f"met-{kind}-{n}" for kind in range(_N_KINDS) for n in range(_N_MET)]
_COLD = [f"cold-{kind}-{n}" for kind in range(_N_KINDS) for n in range(_N_COLD)]


def _write(folder: Path, without: set[str] = frozenset()) -> dict[int, list[str]]:  # type: ignore[assignment]
    """The data set ``shop``: pictures are files below it, sounds stand in the catalogue.

    Returns:
        A history of each kind.
    """
    draw = np.random.default_rng(3)
    sequences = {}
    for user in range(60):
        liked = [item for item in _MET if _kind(item) == user % _N_KINDS]
        sequences[f"u{user}"] = [str(item) for item in draw.permutation(liked)[:9]]
    data = write_atomic(folder, "shop", sequences)
    (data / "pictures").mkdir()
    lines = ["item_id:token\timage:token\ttitle:token_seq\taudio:token"]
    for number, item in enumerate([*_MET, *_COLD]):
        (data / "pictures" / f"{item}.png").write_bytes(picture(_COLOURS[_kind(item)], number))
        path = "" if item in without else f"pictures/{item}.png"
        heard = as_uri(sound(_PITCHES[_kind(item)], number), "audio/wav")
        title = f"Thing {draw.integers(1_000, 9_999)}"
        lines.append(f"{item}\t{path}\t{title}\t{'' if item in without else heard}")
    (data / "shop.item").write_text("\n".join(lines) + "\n")
    return {kind: [item for item in _MET if _kind(item) == kind][:5] for kind in range(_N_KINDS)}


def _settings(folder: Path, encoders: dict[str, Path], *fields: str, **more: Any) -> dict[str, Any]:
    names = {"image": "clip-vision", "audio": "wav2vec2"}
    media = {f"{field}_field": field for field in fields}
    media |= {f"{field}_encoder": str(encoders[names[field]]) for field in fields}
    return {
        "data_path": str(folder), "encoder": "tfidf", "text_cache": str(folder / "cache.sqlite"),
        "hidden_size": 16, "n_layers": 1, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 8,
        "text_size": 16, "learning_rate": 0.01, "train_batch_size": 20, "epochs": 15,
        "artifact_dir": str(folder / "artifacts"), "checkpoint_dir": str(folder / "saved"),
        **media, **more,
    }  # fmt: skip


def _precision(scorer: Scorer, histories: dict[int, list[str]]) -> float:
    """Of the items that nobody met, ranked for a history, the share of its kind among the first."""
    found = []
    for kind, history in histories.items():
        rows = np.array([scorer.row(item) for item in history])
        cold = np.array([[scorer.row(item) for item in _COLD]])
        scores = scorer.score(rows, np.array([len(rows)]), cold)[0]
        first = np.argsort(-scores)[:_N_COLD]
        found.append(np.mean([_kind(_COLD[n]) == kind for n in first]))
    return float(np.mean(found))


def _trained(folder: Path, settings: dict[str, Any]) -> Path:
    artifact = train("LLMSeqRec", "shop", None, settings).artifact
    assert artifact is not None
    return artifact


@pytest.mark.slow
@pytest.mark.parametrize("field", ["image", "audio"])
def test_a_preference_that_no_text_tells(
    tmp_path: Path, media_encoders: dict[str, Path], field: str
) -> None:
    histories = _write(tmp_path)
    blind = load_scorer(_trained(tmp_path, _settings(tmp_path, media_encoders)))
    assert _precision(blind, histories) < 0.4  # by chance 0.25
    for fusion in ("concat", "gate"):
        settings = _settings(tmp_path, media_encoders, field, modality_fusion=fusion)
        scorer = load_scorer(_trained(tmp_path, settings))
        assert _precision(scorer, histories) > 0.8


def _model(folder: Path, settings: dict[str, Any]) -> tuple[LLMSeqRec, Any]:
    config = build_config("LLMSeqRec", "shop", None, settings)
    dataset, loaders = build_data(config)
    torch.manual_seed(0)
    return LLMSeqRec(config, loaders[0]._dataset).eval(), dataset


_LACKING = {"met-0-0", "met-1-3", "met-3-5", "cold-2-1"}


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["concat", "gate"])
def test_what_an_item_lacks(
    tmp_path: Path, media_encoders: dict[str, Path], caplog: pytest.LogCaptureFixture, fusion: str
) -> None:
    """Counted, given a vector that is learnt, told by the explanation; the others are found still."""
    histories = _write(tmp_path, _LACKING)
    settings = _settings(tmp_path, media_encoders, "image", "audio", modality_fusion=fusion)
    path = _trained(tmp_path, settings)
    for kind in ("picture", "sound"):
        assert f"4 of 80 items have no {kind}; each gets a learned default" in caplog.text
    scorer = load_scorer(path)
    assert _precision(scorer, histories) > 0.8
    assert scorer.artifact.item_matrix.isfinite().all()

    parts = read_parts(path, load_artifact(path))
    of_text = ["tfidf"] if fusion == "concat" else ["text"]
    rows = torch.arange(len(scorer.artifact.item_matrix))
    found = parts.of(rows, scorer.artifact.item_matrix)
    assert sorted(found) == sorted(["id", *of_text, "picture", "sound", "missing"])
    torch.testing.assert_close(sum(found.values()), scorer.artifact.item_matrix)
    lacking = torch.tensor([scorer.row(item) for item in sorted(_LACKING)])
    assert not found["picture"][lacking].any()
    assert not found["sound"][lacking].any()
    default = found["missing"][lacking]
    assert default.norm(dim=1).min() > 0.01
    assert (default == default[0]).all()
    found["missing"][lacking] = 0
    assert not found["missing"].any()

    (ranked,) = scorer.top_k([histories[1]], 10).item_ids
    assert [_kind(item) for item in ranked] == [1] * 10

    # A picture's and a sound's shares of a score stand beside those of text and ID, and add up.
    explanation = Explainer(path).explain(histories[1], ["cold-1-0"])
    (item,) = explanation.items
    assert item.shares is not None
    told = item.shares.of
    assert {f"{side} {name}" for side in ("item", "history") for name in found} <= told.keys()
    total = item.shares.baseline + sum(told.values())
    assert total == pytest.approx(item.shares.score, abs=0.02 * abs(item.shares.score))
    largest = max(told, key=lambda name: told[name])
    assert largest.split()[1] in ("picture", "sound")
    page = tmp_path / "page.html"
    printed = explain(
        Warehouse(tmp_path), None, None, histories[1], path, ["cold-1-0"], 1, page, False
    )
    for name in ("picture", "sound"):
        assert f"item {name} {told[f'item {name}']:+.3f}" in printed
        assert f"<tr><td>item {name}</td>" in page.read_text()
    note = "no words: modality_fusion gate weighs a text by a gate that reads it too"
    assert (note in explanation.notes) == (fusion == "gate")
    assert (item.words is None) == (fusion == "gate")


def test_files_of_texts_alone_are_as_they_were(
    tmp_path: Path, media_encoders: dict[str, Path]
) -> None:
    """An explanation of texts alone has format 1, one with pictures format 2; both are checked."""
    _write(tmp_path)
    for fields, expected in (((), 1), (("image",), 2)):
        settings = _settings(tmp_path, media_encoders, *fields)
        model, dataset = _model(tmp_path, settings)
        path = export_artifact(model, dataset, model.config, {}, tmp_path / "artifacts")
        index = json.loads((path / "explanation.json").read_text())
        assert index["format_version"] == expected
        assert index.get("media") == (["picture", "missing"] if fields else None)
    whole = load_file(path / "explanation.safetensors")
    artifact = load_artifact(path)
    for media, tensors, message in (
        ("picture", {}, "expected media as list"),
        (["odour"], {}, "media must be some of"),
        ([["picture"]], {}, "media must be some of"),
        (["picture", "picture"], {}, "each once"),
        (["picture"], {"picture.vectors": whole["picture.vectors"][1:]}, "'picture' does not fit"),
        (["picture"], {"picture.mean": whole["picture.mean"].half()}, "'picture' does not fit"),
        (["sound"], {}, "cannot be read: KeyError"),
    ):
        save_file({**whole, **tensors}, path / "explanation.safetensors")
        digest = hashlib.sha256((path / "explanation.safetensors").read_bytes()).hexdigest()
        told = {**index, "media": media, "sha256": digest}
        (path / "explanation.json").write_text(json.dumps(told))
        with pytest.raises(ArtifactError, match=message):
            read_parts(path, artifact)


@pytest.mark.parametrize("fusion", ["concat", "gate"])
def test_an_item_is_the_sum_of_its_modalities(fusion: str) -> None:
    """By hand: each modality by its own map and gate, and its default where an item lacks it."""
    torch.manual_seed(0)
    widths = [3, 2]
    vectors, missing = torch.randn(4, 5), torch.tensor([[0.0, 0], [0, 0], [0, 1], [1, 1]])
    vectors[0] = 0
    vectors[2, 3:] = 0
    vectors[3] = 0
    catalogue = build_catalogue(torch.tensor([0, 1, 1, 0]), vectors, 0, 5.0, 0.0, missing=missing)
    assert catalogue.item_bias.tolist() == [-1e4, 0, 0, -1e4]  # nothing describes the last
    encoder = ItemEncoder(4, 8, widths, False, "linear", 0.0, 0.02, fusion)
    assert encoder.defaults is not None
    assert encoder.adaptor is not None
    torch.nn.init.normal_(encoder.defaults.weight)
    found = encoder(torch.arange(4), catalogue)
    defaults = encoder.defaults.weight.T  # (M, H)
    if fusion == "concat":
        whole = vectors @ encoder.adaptor.weight.T
    else:
        torch.nn.init.normal_(encoder.adaptor.gate.weight)
        found = encoder(torch.arange(4), catalogue)
        weights = 2 / (1 + torch.exp(-encoder.adaptor.gate(vectors)))
        first, second = (each.weight.T for each in encoder.adaptor.maps)
        whole = weights[:, :1] * (vectors[:, :3] @ first)
        whole = whole + weights[:, 1:] * (vectors[:, 3:] @ second)
    torch.testing.assert_close(found[0], torch.zeros(8))  # padding
    torch.testing.assert_close(found[1], whole[1])
    torch.testing.assert_close(found[2], whole[2] + defaults[1])
    torch.testing.assert_close(found[3], defaults.sum(0))
    torch.testing.assert_close(encoder(torch.tensor([2]), catalogue)[0], found[2])


def test_no_modality_drowns_another(tmp_path: Path, media_encoders: dict[str, Path]) -> None:
    _write(tmp_path, _LACKING)
    model, dataset = _model(tmp_path, _settings(tmp_path, media_encoders, "image", "audio"))
    vectors, missing = model.catalogue.text_vectors, model.catalogue.missing
    assert vectors is not None
    assert missing is not None
    assert list(model.widths) == ["text", "picture", "sound"]
    assert sum(model.widths.values()) == vectors.shape[1]
    rows = {token: row for row, token in enumerate(dataset.item_tokens())}
    assert missing[[rows[item] for item in sorted(_LACKING)]].tolist() == [[0, 1, 1]] * 4
    assert missing.sum().item() == 8
    parts = torch.split(vectors, list(model.widths.values()), 1)
    of_text = parts[0][1:].var(0).sum()
    for kind, part in enumerate(parts[1:], start=1):
        has_one = missing[:, kind] == 0
        has_one[0] = False
        torch.testing.assert_close(part[has_one].var(0).sum(), of_text, rtol=1e-4, atol=0)
        assert not part[missing[:, kind] == 1].any()


def test_a_challenger_takes_over_what_pictures_mean(
    tmp_path: Path, media_encoders: dict[str, Path]
) -> None:
    _write(tmp_path, _LACKING)
    settings = _settings(tmp_path, media_encoders, "image")
    old, dataset = _model(tmp_path, settings)
    assert old.network.items.defaults is not None
    assert old.average is not None
    for network in (old.network, old.average.module):
        torch.nn.init.normal_(network.items.defaults.weight)
    write_training_state(old, dataset.item_tokens(), tmp_path)
    new, _ = _model(tmp_path, settings)
    torch.nn.init.normal_(new.network.items.adaptor.weight)
    assert start_warm(new, dataset.item_tokens(), tmp_path)["cold_because"] is None
    torch.testing.assert_close(new.item_matrix(), old.item_matrix(), atol=1e-4, rtol=1e-3)
    blind, _ = _model(tmp_path, _settings(tmp_path, media_encoders))
    told = start_warm(blind, dataset.item_tokens(), tmp_path)["cold_because"]
    assert told == "modalities was ['picture'], modality_fusion was concat"


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"image_field": "photo"}, DataError, "shop.item has no column 'photo:token', found"),
        ({"image_encoder": None}, ConfigError, "image_field says where the pictures are and"),
        ({"image_field": 3}, ConfigError, "image_field must be a name, or ~, got 3"),
        ({"modality_fusion": "sum"}, ConfigError, "must be concat or gate, got 'sum'"),
        ({"item_repr": "id"}, ConfigError, "describe items, which item_repr id does not"),
        ({"modality_fusion": "gate", "adaptor": "moe"}, ConfigError, "gate has a linear map"),
        ({"audio_field": "image", "audio_encoder": "x"}, ConfigError, "are one field, 'image'"),
        ({"image_encoder": "minilm"}, ConfigError, "is no encoder of pictures|need the wheel"),
        ({"media_path": "elsewhere"}, DataError, "the picture of item .*png' is no file"),
        ({"image_field": "title"}, DataError, "the picture of item .*'Thing .* is no file"),
    ],
)
def test_bad_settings(
    tmp_path: Path,
    media_encoders: dict[str, Path],
    setting: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    _write(tmp_path)
    with pytest.raises(error, match=message):
        _model(tmp_path, _settings(tmp_path, media_encoders, "image", **setting))


def test_a_path_is_no_text(tmp_path: Path, media_encoders: dict[str, Path]) -> None:
    _write(tmp_path)
    _, dataset = _model(tmp_path, _settings(tmp_path, media_encoders, "image", "audio"))
    assert list(dataset.item_table.columns) == ["title"]
    assert all(text.startswith("Thing ") for text in dataset.item_texts()[1:])
