import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.about import DOCS
from benchmarks.quality import rows, store
from benchmarks.quality.__main__ import _is_here
from benchmarks.quality.ablation import (
    ABLATIONS,
    CONFIG,
    PAGE,
    option_loss,
    removed_table,
    with_figures,
    write_ablation,
)
from benchmarks.quality.models import MODELS, find_model
from benchmarks.quality.report import _ratio_table, bootstrap_ratio, ndcg, write_report
from benchmarks.quality.run import Outcome, run
from benchmarks.quality.tasks import Task, plan, run_tasks
from recbole_llm.errors import ConfigError
from recbole_llm.options import model_options
from recbole_llm.train import build_config
from tests.data import write_atomic


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
    default = build_config("LLMSeqRec", "ml-100k")
    settings = find_model(name).settings
    changed = build_config("LLMSeqRec", "ml-100k", None, settings)
    model_options(changed)
    assert all(changed[key] != default[key] for key in settings)


@pytest.mark.slow
def test_the_docs_show_what_the_results_say(tmp_path: Path) -> None:
    write_report(tmp_path)
    for name in ("quality.md", "quality.svg"):
        assert (tmp_path / name).read_bytes() == (DOCS / name).read_bytes()


def test_the_model_page_and_the_config_show_what_the_results_say(tmp_path: Path) -> None:
    shown = (PAGE, CONFIG)
    copies = [Path(shutil.copy(path, tmp_path)) for path in shown]
    write_ablation(*copies)
    for path, copy in zip(shown, copies, strict=True):
        assert copy.read_bytes() == path.read_bytes()


def test_settings_of_another_model_are_no_ablation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.read(store.ABLATION)
    row = {**kept[0], "model": "bert4rec:stopping_step=61", "dataset": "ml-100k"}
    ablation = tmp_path / "ablation.json"
    ablation.write_text(json.dumps([*kept, row]))
    monkeypatch.setattr(store, "ABLATION", ablation)
    copies = [Path(shutil.copy(path, tmp_path)) for path in (PAGE, CONFIG)]
    write_ablation(*copies)
    assert all("stopping_step=61" not in copy.read_text(encoding="utf-8") for copy in copies)


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


def test_what_was_removed_is_held_against_the_default_of_its_commit() -> None:
    def row(model: str, commit: str, seed: int, valid: float, test: float) -> dict[str, Any]:
        return {
            "model": model, "dataset": "a", "seed": seed, "valid_ndcg@10": valid, "ndcg@10": test,
            "commit": commit,
        }  # fmt: skip

    rows = [
        row("llmseqrec", "old", 1, 0.2, 0.1), row("llmseqrec", "old", 2, 0.4, 0.1),
        row("llmseqrec", "new", 1, 0.8, 0.8), row("llmseqrec:x=1,y=2", "old", 1, 0.2, 0.11),
        row("llmseqrec:x=1,y=2", "old", 2, 0.2, 0.11), row("llmseqrec:x=3", "newer", 1, 0.2, 0.1),
    ]  # fmt: skip
    assert removed_table(rows).splitlines()[2:] == [
        "| `x=1,y=2` | old | a | 2 | 0.750 ± 0.250 | 1.100 |"
    ]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    monkeypatch.setattr(store, "QUALITY", tmp_path / "quality.json")
    monkeypatch.setattr(store, "TUNING", tmp_path / "tuning.json")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("results")
def test_each_choice_of_a_grid_is_tried_once_and_rows_of_a_smaller_grid_run_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = run(find_model("pop"), "ml-100k", None, 1, {})
    told: list[tuple[int, float]] = []
    scores = {0.1: 0.3, 0.2: 0.4, 0.3: 0.5}

    def run_as_told(entry: Any, dataset: Any, path: Any, seed: int, settings: Any) -> Outcome:
        rate = settings["learning_rate"]
        told.append((seed, rate))
        return replace(outcome, valid={"ndcg@10": scores[rate]})

    monkeypatch.setattr(rows, "run", run_as_told)
    one, other, third = ({"learning_rate": rate} for rate in scores)
    for grid, seeds in (((one, other), [1, 2]), ((one, other, third), [2])):
        monkeypatch.setitem(MODELS, "tuned", replace(find_model("pop"), grid=grid))
        for _ in range(2):  # the second time there is nothing left to run
            for task in list(plan(["ml-100k"], ["tuned"], seeds, None, {})):
                task.action()
    # The best choice is the first seed's row, without another run.
    assert told == [(1, 0.1), (1, 0.2), (2, 0.2), (2, 0.3)]
    kept = {row["seed"]: row["tuned"] for row in store.read(store.QUALITY)}
    assert kept == {1: '{"learning_rate": 0.2}', 2: '{"learning_rate": 0.3}'}


def _note(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _refuse() -> None:
    raise ConfigError("this choice cannot run")


def test_rows_wait_for_their_grid_and_a_failure_stops_its_own_rows_alone(tmp_path: Path) -> None:
    file, good, bad = tmp_path / "order", ("data", "good"), ("data", "bad")

    def told(line: str, group: tuple[str, str], is_row: bool) -> Task:
        return Task(line, group, is_row, partial(_note, file, line))

    tasks = [
        Task("bad choice", bad, False, _refuse), told("bad row", bad, True),
        told("good choice", good, False), told("good row", good, True),
    ]  # fmt: skip
    assert not run_tasks(tasks, jobs=2)
    assert file.read_text().split("\n") == ["good choice", "good row", ""]
    assert run_tasks(tasks[2:], jobs=1)


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


def test_a_data_set_that_is_not_here_is_left_out(tmp_path: Path) -> None:
    write_atomic(tmp_path, "here", {"u": ["i1", "i2"]}, {"i1": "One", "i2": "Two"})
    assert _is_here("here", str(tmp_path))
    assert not _is_here("here", None)
    assert not _is_here("elsewhere", str(tmp_path))
    assert _is_here("ml-100k", None)


def test_ours_stands_beside_the_best_of_recbole_and_the_best_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    for model, rank in (("llmseqrec", 2), ("sasrec", 6), ("pop", 9), ("recent", 1), ("blend", 1)):
        ranks = np.full(4, rank, np.uint8)
        outcome = Outcome({}, {}, {}, ranks, ranks, {}, list("abcd"), 1, 1.0, 1)
        store.write_ranks({"dataset": "shop", "model": model, "seed": 1}, outcome)
    models = {name: [{"seed": 1}] for name in ("llmseqrec", "sasrec", "pop", "recent", "blend")}
    row = _ratio_table({"shop": models}, "Title", "Said.", "ranks").splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "shop", "0.6309", "sasrec 0.3562", "**1.77** [1.77, 1.77]",
        "recent 1.0000", "**0.63** [0.63, 0.63]", "", "",
    ]  # fmt: skip
