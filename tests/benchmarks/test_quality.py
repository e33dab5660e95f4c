from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import rows, store
from benchmarks.quality.ablation import ABLATIONS, option_loss, with_figures
from benchmarks.quality.models import MODELS, find_model
from benchmarks.quality.report import bootstrap_ratio, ndcg
from benchmarks.quality.run import Outcome, run
from recbole_llm.options import model_options
from recbole_llm.train import build_config


def test_a_name_carries_settings() -> None:
    entry = find_model("llmseqrec-text:n_layers=1,hidden_dropout_prob=0.5,item_text=~")
    assert entry.settings == {
        "item_repr": "text", "n_layers": 1, "hidden_dropout_prob": 0.5, "item_text": None,
    }  # fmt: skip
    assert MODELS["llmseqrec-text"].settings == {"item_repr": "text"}


@pytest.mark.parametrize("name", ["sasrek", "sasrek:n_layers=1", "sasrec:n_layers"])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no model 'sasrek'|expected key=value .* 'n_layers'"):
        find_model(name)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_a_valid_setting_away_from_the_default(name: str) -> None:
    default = model_options(build_config("LLMSeqRec", "ml-100k"))
    changed = build_config("LLMSeqRec", "ml-100k", None, find_model(name).settings)
    assert model_options(changed) != default


def test_ndcg_of_one_relevant_item() -> None:
    np.testing.assert_allclose(
        ndcg(np.array([1, 3, 10, 0], np.uint8)), [1, 0.5, 1 / np.log2(11), 0]
    )


def test_the_interval_holds_the_ratio_and_shrinks_with_users() -> None:
    generator = np.random.default_rng(0)
    widths = []
    for users in (200, 20_000):
        theirs = (generator.random(users) < 0.1).astype(float)
        ours = (generator.random(users) < 0.2).astype(float)
        low, high = bootstrap_ratio(ours, theirs, samples=400)
        assert low < ours.mean() / theirs.mean() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    assert bootstrap_ratio(theirs, theirs, samples=50) == (1.0, 1.0)


def test_an_options_loss_is_taken_seed_by_seed() -> None:
    default = [{"seed": 1, "ndcg@10": 0.10}, {"seed": 2, "ndcg@10": 0.20}]
    changed = [{"seed": 2, "ndcg@10": 0.18}, {"seed": 1, "ndcg@10": 0.08}]
    loss = option_loss(default, changed)
    assert loss == pytest.approx((0.85, 0.05))
    assert option_loss(default, [{"seed": 3, "ndcg@10": 0.1}]) is None


def test_the_figures_stand_below_their_options_and_replace_older_ones() -> None:
    config = "n_layers: 2   # (int) Blocks.\nrepeat_lags: 3\n"
    losses = {
        "n_layers=1": {"a": (0.981, 0.01), "b": (1.0, 0.0)},
        "n_layers=1,n_heads=1": {"a": (0.5, 0.0)},
    }
    once = with_figures(config, losses)
    lines = once.splitlines()
    assert [line.strip() for line in lines] == [
        "n_layers: 2   # (int) Blocks.",
        "# With 1, NDCG@10 is 0.98 on a, 1.00 on b.",
        "repeat_lags: 3",
    ]
    assert with_figures(once, losses) == once
    assert with_figures(once, {}) == config


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    monkeypatch.setattr(store, "QUALITY", tmp_path / "quality.json")
    monkeypatch.setattr(store, "TUNING", tmp_path / "tuning.json")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("results")
def test_each_choice_of_a_grid_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[dict[str, object]] = []

    def told_run(*args: Any) -> Outcome:
        tried.append(args[-1])
        return run(*args)

    monkeypatch.setattr(rows, "run", told_run)
    pop = find_model("pop")
    one, other, third = ({"learning_rate": rate} for rate in (0.1, 0.2, 0.3))
    monkeypatch.setitem(MODELS, "tuned", replace(pop, grid=(one, other)))
    for seed in (1, 2):
        rows.fill("tuned", "ml-100k", None, seed, {})
    assert tried == [one, other, one]  # counting learns nothing: both are equal, the first is best
    monkeypatch.setitem(MODELS, "tuned", replace(pop, grid=(one, other, third)))
    rows.fill("tuned", "ml-100k", None, 3, {})
    assert tried[3:] == [third, one]
    assert [row["seed"] for row in store.read(store.QUALITY)] == [1, 2, 3]


@pytest.mark.usefixtures("results")
def test_a_run_tells_its_epochs_and_its_row_replaces_an_older_one() -> None:
    heard: list[tuple[int, float]] = []
    outcome = run(
        find_model("pop"), "ml-100k", None, 1, {}, on_epoch=lambda *told: heard.append(told)
    )
    assert heard == [(0, outcome.valid["ndcg@10"])]
    for note in ("older", "newer"):
        rows.keep("pop", "ml-100k", 1, outcome, {"commit": note})
    (row,) = store.read(store.QUALITY)
    assert (row["commit"], row["ndcg@10"]) == ("newer", outcome.test["ndcg@10"])
    ranks = store.read_ranks("ml-100k", "pop", 1)
    assert ndcg(ranks).mean() == pytest.approx(row["ndcg@10"], abs=1e-6)
