"""The cut that turns items cold, and the rows that stop both runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cold import __main__ as cold
from benchmarks.cold.cut import Events
from benchmarks.cold.picture import draw, mean_curves
from benchmarks.quality.models import find_model
from benchmarks.quality.run import _rows_of, run
from recbole_llm.sequences import WholeSequenceDataset
from recbole_llm.train import build_config, build_data
from tests.data import CYCLE, walk, write_atomic

USERS = {
    "a": ["i1", "i2", "i3", "i4", "i9"],  # the test item turns cold
    "b": ["i2", "i9", "i1", "i3", "i4"],  # a training event is lost
    "c": ["i9", "i1", "i9", "i2"],  # one training event is left: too few
    "d": ["i3", "i4", "i9", "i1"],  # the validation item turns cold
}


@pytest.fixture
def events(tmp_path: Path) -> Events:
    texts = {item: f"text of {item}" for item in ("i1", "i2", "i3", "i4", "i9")}
    return Events(write_atomic(tmp_path, "small", USERS, texts))


def test_a_cut_takes_training_events_and_leaves_the_two_held_out(events: Events) -> None:
    assert events.trained_items() == ["i1", "i2", "i3", "i4", "i9"]
    cut = events.without({"i9"})
    kept = {
        held_out[0][0]: ([row[1] for row in training], [row[1] for row in held_out])
        for training, held_out in cut.users
    }
    assert kept == {
        "a": (["i1", "i2", "i3"], ["i4", "i9"]),
        "b": (["i2", "i1"], ["i3", "i4"]),
        "d": (["i3", "i4"], ["i9", "i1"]),
    }
    assert cut.cold_users() == {"a"}
    assert cut.warm_users() == {"b"}


def test_a_run_that_never_heard_of_an_item_has_it_in_no_file(
    events: Events, tmp_path: Path
) -> None:
    cut = events.without({"i9"})
    aware = cut.write(tmp_path / "aware", forget=False) / "small"
    unaware = cut.write(tmp_path / "unaware", forget=True) / "small"
    assert "i9" in (aware / "small.inter").read_text()
    assert "i9" in (aware / "small.item").read_text()
    lines = (unaware / "small.inter").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == [
        "i1", "i2", "i3", "i4", "i3",  # in the place of the test item: the last one trained on
        "i2", "i1", "i3", "i4",
        "i3", "i4", "i4", "i1",
    ]  # fmt: skip
    assert "i9" not in (unaware / "small.item").read_text()


def test_the_rows_that_stop_a_run_are_those_of_the_users_named(events: Events) -> None:
    config = build_config("SASRec", "small", None, {"data_path": str(events.folder.parent)})
    data, (_, valid, _) = build_data(config, WholeSequenceDataset)
    rows = _rows_of(valid, {"b", "d"})._dataset.inter_feat
    assert sorted(data.id2token("user_id", rows["user_id"])) == ["b", "d"]
    assert len(valid._dataset) == len(USERS)  # the loader given is as it was


def test_the_figures_are_means_over_the_default_model_on_the_main_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold, "_PATH", tmp_path / "cold.json")
    rows = [
        ("steam-100k", "llmseqrec", 1, 0.1, 9.0),
        ("amazon-beauty-2014", "llmseqrec", 2, 0.1, 0.4),
        ("amazon-beauty-2014", "sasrec", 1, 0.1, 0.0),
        ("amazon-beauty-2014", "llmseqrec", 1, 0.5, 7.0),
        ("amazon-beauty-2014", "llmseqrec", 1, 0.1, 0.5),
    ]
    for dataset, model, seed, share, value in rows:
        key = {"dataset": dataset, "model": model, "seed": seed, "share": share}
        cold._add({**key, "cold_recall_over_warm": value, "warm_kept": 2 * value})
    content = json.loads((tmp_path / "cold.json").read_text())
    assert content["figures"] == {"cold_recall_over_warm": 0.45, "warm_kept": 0.9}
    assert [row["seed"] for row in content["rows"]] == [1, 1, 2, 1, 1]
    assert content["rows"][-1]["dataset"] == "steam-100k"


def test_the_curve_ranks_one_model_at_each_bias(tmp_path: Path) -> None:
    sequences = {f"u{user}": [*walk(user, 6), "new"] for user in range(len(CYCLE))}
    texts = {item: f"Film {item} of the cycle" for item in [*CYCLE, "new"]}
    write_atomic(tmp_path, "small", sequences, texts)
    settings = {"encoder": "tfidf", "epochs": 1, "hidden_size": 8, "new_item_bias": 0.2}
    outcome = run(
        find_model("llmseqrec"), "small", str(tmp_path), 1, settings,
        new_item_biases=(-1000.0, 0.2, 1000.0),
    )  # fmt: skip
    assert not outcome.ranks_by_bias[-1000.0].any()  # last of thirteen
    np.testing.assert_array_equal(outcome.ranks_by_bias[0.2], outcome.ranks)
    assert (outcome.ranks_by_bias[1000.0] == 1).all()


def test_the_picture_has_each_set_model_and_bias(tmp_path: Path) -> None:
    draw(mean_curves([{"dataset": "old", "model": "llmseqrec"}]), tmp_path)
    assert not (tmp_path / "cold.svg").exists()  # rows from before there were curves
    curve = [
        {"new_item_bias": bias, "warm_kept": 1 - bias / 10, "cold_recall_over_warm": bias}
        for bias in (0.0, 0.25)
    ]
    rows = [
        {"dataset": dataset, "model": "llmseqrec", "curve": curve} for dataset in ("one", "two")
    ]
    curves = mean_curves([*rows, rows[0]])
    assert curves["one"]["llmseqrec"].points == [(1.0, 0.0), (0.975, 0.25)]
    draw(curves, tmp_path)
    drawn = (tmp_path / "cold.svg").read_text()
    for text in ("one, by new_item_bias", "two, by new_item_bias", "seeds: 2", "0.25"):
        assert f"<!-- {text}" in drawn or f"{text} -->" in drawn
    first = (tmp_path / "cold.svg").read_bytes()
    draw(curves, tmp_path)
    assert (tmp_path / "cold.svg").read_bytes() == first
