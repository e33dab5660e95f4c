"""A champion ranks items on their first day: what it makes of texts, and which model ranks a day."""

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch

from recbole_llm.cli import main
from recbole_llm.extend import extend_champion
from recbole_llm.item_parts import read_parts
from recbole_llm.query import lookup
from recbole_llm.scoring import load_scorer, write_artifact
from recbole_llm.scoring.item_neighbors import CONTENT, read_neighbors
from recbole_llm.warehouse import Warehouse, replace_json
from tests.conftest import make_night_config, night_runner
from tests.data import CYCLE, MANIFEST, random_artifact, walk, write_events
from tests.words import texts_of, train_on_words

TITLES = texts_of(CYCLE)
DAY = "2024-05-02"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that has learnt the cycle, each place a word of its own."""
    return train_on_words(tmp_path_factory.mktemp("trained"))


def _warehouse(root: Path, champion: Path, items: dict[str, str]) -> Warehouse:
    """A champion, and a day's features that have these items with these titles."""
    warehouse = Warehouse(root)
    shutil.copytree(champion, warehouse.artifacts / champion.name)
    replace_json(warehouse.champion, {"model_version": champion.name})
    folder = root / "features" / f"ds={DAY}" / "a"
    (folder / "items").mkdir(parents=True)
    rows = ", ".join(f"('{item}', '{title}', '', '')" for item, title in items.items())
    with duckdb.connect() as database:
        database.execute(
            f"COPY (SELECT * FROM (VALUES {rows}) AS t(item_id, title, category, description))"
            f" TO '{folder / 'items' / 'part.parquet'}'"
        )
    path = str(folder.relative_to(root))
    replace_json(
        warehouse.features(DAY) / "manifest.json",
        {**MANIFEST, "ds": DAY, "path": path, "fingerprint": "f"},
    )
    return warehouse


def test_a_new_item_is_ranked_where_its_text_belongs(trained: Path, tmp_path: Path) -> None:
    warehouse = _warehouse(tmp_path, trained, {**TITLES, "new": "An heron", "mute": ""})
    path = extend_champion(warehouse, DAY)
    before, after = load_scorer(trained), load_scorer(path)
    assert after.artifact.item_ids == [*before.artifact.item_ids, "new"]
    assert after.artifact.titles[-1] == "An heron"
    assert after.artifact.n_events == [*before.artifact.n_events, 0]
    assert min(before.artifact.n_events) > 0
    assert torch.equal(after.artifact.item_matrix[:-1], before.artifact.item_matrix)
    history = walk(3, 4)  # up to i6; heron is i7
    was = before.top_k([history], 2).item_ids[0]
    now = after.top_k([history], 3).item_ids[0]
    assert was[0] == "i7"
    assert set(now[:2]) == {"i7", "new"}
    assert after.top_k([[*history, "new"]], 1).item_ids[0] == ["i8"]  # and it is read as that
    parts = read_parts(path, after.artifact)
    assert parts.text(13) == "An heron"
    found = parts.of(torch.tensor([13]), after.artifact.item_matrix)
    torch.testing.assert_close(sum(found.values()), after.artifact.item_matrix[13:])
    near = read_neighbors(path, after.artifact)[CONTENT]
    row = {item: n for n, item in enumerate(after.artifact.item_ids, start=1)}
    assert near.items[row["new"], 0] == row["i7"]
    assert near.items[row["i7"], 0] == row["new"]


def test_the_same_day_has_the_same_model_and_another_champion_another(
    trained: Path, tmp_path: Path
) -> None:
    warehouse = _warehouse(tmp_path, trained, {**TITLES, "new": "An heron"})
    path = extend_champion(warehouse, DAY)
    assert warehouse.ranking_artifact(DAY) == path
    assert warehouse.ranking_artifact("2024-05-03").name == trained.name
    files = {each: each.stat().st_mtime_ns for each in path.iterdir()}
    assert extend_champion(warehouse, DAY) == path
    assert {each: each.stat().st_mtime_ns for each in path.iterdir()} == files
    warehouse.day_model(DAY).unlink()
    assert extend_champion(warehouse, DAY) == path
    other = write_artifact(random_artifact(CYCLE), warehouse.artifacts)
    replace_json(warehouse.champion, {"model_version": other.name})
    assert warehouse.ranking_artifact(DAY) == other
    shutil.rmtree(path)
    replace_json(warehouse.champion, {"model_version": trained.name})
    assert warehouse.ranking_artifact(DAY).name == trained.name


@pytest.mark.parametrize("items", [TITLES, {**TITLES, "mute": ""}, {**TITLES, "signs": "???"}])
def test_without_new_texts_the_champion_ranks(
    trained: Path, tmp_path: Path, items: dict[str, str]
) -> None:
    warehouse = _warehouse(tmp_path, trained, items)
    assert extend_champion(warehouse, DAY).name == trained.name
    assert json.loads(warehouse.day_model(DAY).read_text())["model_version"] == trained.name


def test_a_title_that_is_a_number_is_read(trained: Path, tmp_path: Path) -> None:
    path = extend_champion(_warehouse(tmp_path, trained, {**TITLES, "new": "1917"}), DAY)
    assert load_scorer(path).artifact.item_ids[-1] == "new"


def test_a_champion_that_reads_no_texts_is_told_and_ranks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    champion = write_artifact(random_artifact(CYCLE), tmp_path / "made")
    warehouse = _warehouse(tmp_path / "warehouse", champion, {**TITLES, "new": "An heron"})
    assert extend_champion(warehouse, DAY).name == champion.name
    assert "new items are not ranked by champion" in caplog.text


def test_extended_models_that_no_table_needs_go(trained: Path, tmp_path: Path) -> None:
    one = _warehouse(tmp_path / "one", trained, {**TITLES, "new": "An heron"})
    other = _warehouse(tmp_path / "other", trained, {**TITLES, "newer": "An island"})
    first = extend_champion(one, DAY)
    shutil.copytree(first, other.artifacts / first.name)
    second = extend_champion(other, DAY)
    left = {path.parent.name for path in other.artifacts.glob("*/artifact.json")}
    assert left == {trained.name, second.name}
    shutil.rmtree(second)  # as another day would; the same day again reads its new items again
    assert extend_champion(other, DAY) == second
    assert load_scorer(second).artifact.item_ids[-1] == "newer"


@pytest.mark.spark
@pytest.mark.slow
def test_a_night_recommends_an_item_on_its_first_day(
    trained: Path, spark: Any, tmp_path: Path
) -> None:
    from spark_jobs.prepare_features import prepare
    from spark_jobs.publish import publish
    from spark_jobs.score_users import score

    warehouse = Warehouse(tmp_path / "warehouse")
    shutil.copytree(trained, warehouse.artifacts / trained.name)
    replace_json(warehouse.champion, {"model_version": trained.name})
    noon = 1_714_651_200
    rows: list[dict[str, object] | str] = [
        {"user_id": f"u{n}", "item_id": item, "timestamp": noon + step}
        for n in range(6)
        for step, item in enumerate(walk(n, 4))
    ]
    write_events(warehouse.raw_events, DAY, rows)
    warehouse.raw_items.mkdir(parents=True)
    lines = [
        {"item_id": item, "title": title} for item, title in {**TITLES, "new": "An heron"}.items()
    ]
    (warehouse.raw_items / "items.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    config = make_night_config(tmp_path)
    run = night_runner(spark, warehouse.root, config)
    run(DAY, steps=(prepare,))
    assert main(["train", "--if-none", "--warehouse", str(warehouse.root), "--config", str(config),
                 "--day", DAY]) == 0  # fmt: skip
    run(DAY, steps=(score, publish))
    table = lookup(warehouse, "u3", DAY, k=3)
    assert table.model_version == warehouse.ranking_artifact(DAY).name != trained.name
    found = {row["item_id"]: row["reason"] for row in table.recommendations}
    assert found["new"] == "model"
    assert np.isfinite([row["score"] for row in table.recommendations]).all()
