"""The report says what the files say, and what is foreign in it stays text."""

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llm.cli import main as cli
from recbole_llm.errors import ArtifactError, NotFoundError
from recbole_llm.recommendations import RECOMMENDATIONS
from recbole_llm.report.page import render_report
from recbole_llm.report.results import Change, Measured, Score, read_results
from recbole_llm.warehouse import Warehouse, replace_json
from tests.browser import CHROMIUM
from tests.data import RUN

HOSTILE = "<script>document.title = 'taken'</script>"
DAY = RUN["ds"]


def _run(model: str, seed: int, ndcg: float, dataset: str = "shop") -> dict[str, Any]:
    return {
        "dataset": dataset,
        "model": model,
        "seed": seed,
        "ndcg@10": ndcg,
        "recall@10": 2 * ndcg,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    rows = [
        _run("pop", 1, 0.1), _run("llmseqrec", 1, 0.2), _run("llmseqrec", 2, 0.4),
        _run("llmseqrec", 1, 0.5, "films"),
    ]  # fmt: skip
    replace_json(folder / "quality.json", rows)
    changed = [
        _run("llmseqrec:n_layers=1", 1, 0.1), _run("llmseqrec:n_layers=1", 2, 0.4),
        _run("llmseqrec:n_layers=1", 3, 9.0), _run("unisrec:n_layers=1", 1, 9.0),
    ]  # fmt: skip
    replace_json(folder / "ablation.json", changed)
    curves = {
        "sasrec": {"curve": [[10.0, 0.1], [100.0, 0.2]]}, "figures": {"ratio": 3.5, "card": "none"},
        "time": {"llmseqrec_curve": [[1.0, 0.1], [5.0, 0.3]]},
    }  # fmt: skip
    replace_json(folder / "training.json", curves)
    replace_json(folder / "serve.json", {"figures": {"rps": 200}, "command": "python -m it --x"})
    return folder


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """One published day of seven users, measured."""
    warehouse = Warehouse(tmp_path / "warehouse")
    users = [f"u{n}" for n in range(7)]
    rows = {
        "ds": [datetime.date.fromisoformat(DAY)] * 7, "user_id": users, "rank": [1] * 7,
        "item_id": ["i1"] * 7, "score": [0.5] * 7, "reason": ["model"] * 7,
        "model_version": ["m"] * 7, "run_id": ["r"] * 7,
        "generated_at": [datetime.datetime(2024, 5, 2, tzinfo=datetime.UTC)] * 7,
        "why": [None] * 7,
    }  # fmt: skip
    state = {"user_id": users, "item_ids": [["i1"]] * 7, "timestamps": [[1]] * 7,
             "unread_ids": pa.array([[]] * 7, pa.list_(pa.string()))}  # fmt: skip
    features = warehouse.root / RUN["features_path"]
    for path, table in {
        warehouse.root / RUN["path"] / "0.parquet": pa.table(rows, RECOMMENDATIONS),
        features / "items" / "0.parquet": pa.table({"item_id": ["i1"], "title": [HOSTILE]}),
        features / "sequences" / "0.parquet": pa.table(state),
    }.items():
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
    replace_json(warehouse.published, {"format_version": 1, "days": {DAY: {**RUN, "before": []}}})
    for day, hit in (("2024-04-30", 0.25), (DAY, 0.125)):
        night = {"ds": day, "run_id": "r", "model_version": "m", "base_ds": None, "hit": hit,
                 "warnings": "hit 0.125 is low"}  # fmt: skip
        replace_json(warehouse.metrics / f"{day}.json", night)
    return warehouse


def test_results_by_hand(results: Path) -> None:
    found = read_results(results)
    assert found.figures == [
        Measured("rps", 200, "serve.json", "python -m it --x"),
        Measured("ratio", 3.5, "training.json", "python -m benchmarks.training"),
    ]
    assert list(found.quality) == ["films", "shop"]
    assert list(found.quality["shop"]) == ["llmseqrec", "pop"]
    score = found.quality["shop"]["llmseqrec"]
    assert (score.ndcg, score.recall, score.n_seeds) == (
        pytest.approx(0.3), pytest.approx(0.6), 2
    )  # fmt: skip
    assert score.spread == pytest.approx(0.1414213562)
    assert found.quality["films"]["llmseqrec"] == Score(0.5, 1.0, None, 1)
    assert found.ablation == [Change("n_layers=1", "shop", pytest.approx(0.75), 2)]
    assert found.curves == {
        "SASRec": [(10.0, 0.1), (100.0, 0.2)], "LLMSeqRec": [(1.0, 0.1), (5.0, 0.3)]
    }  # fmt: skip


def test_a_page_of_all(results: Path, warehouse: Warehouse) -> None:
    page = render_report(read_results(results), warehouse)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>|data:[^\"]*", " ", page))
    for told in ("0.3000 ± 0.1414", "n_layers=1 shop 0.750 2", "Hit rate 12.50%", "rps 200 serve.json",
                 "hit 0.125 is low", "u0", "u1", "u2"):  # fmt: skip
        assert told in text
    assert "u3" not in text
    assert page.count("data:image/png") == 2 + 1 + 2
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_a_part_may_be_missing(
    results: Path, warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = render_report(read_results(results), None)
    assert "Some users" not in alone
    night = render_report(None, warehouse)
    assert "How well it recommends" not in night
    with pytest.raises(NotFoundError, match="nothing to report"):
        render_report(None, Warehouse(warehouse.root / "none"))
    page = results.parent / "page.html"
    given = ["--results", str(results), "--warehouse", str(warehouse.root), "--output", str(page)]
    assert cli(["report", *given]) == 0
    assert page.read_text() == render_report(read_results(results), warehouse)
    assert capsys.readouterr().out == f"{page}\n"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("quality", [{"dataset": "shop"}], "expected model as str, got nothing"),
        ("quality", {"rows": []}, "expected dataset as str, got nothing"),
        ("serve", {"figures": [1]}, "expected figures as dict, got list"),
        ("training", {"time": {}}, "expected llmseqrec_curve as list, got nothing"),
    ],
)
def test_a_file_of_something_else(results: Path, name: str, content: Any, fault: str) -> None:
    (results / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=fault):
        read_results(results)


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no results in"):
        read_results(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium or google-chrome on PATH")
def test_it_opens_in_a_browser(results: Path, warehouse: Warehouse, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    path = tmp_path / "report.html"
    path.write_text(render_report(read_results(results), warehouse))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        headings = page.locator("h2").all_inner_texts()
        widths = page.eval_on_selector_all("img", "all => all.map(each => each.naturalWidth)")
        title = page.title()
        browser.close()
    assert headings == [
        "How well it recommends", "How soon it learns", "What each setting is worth",
        f"The night of {DAY}", "Some users", "All figures",
    ]  # fmt: skip
    assert len(widths) == 5
    assert min(widths) > 100
    assert title == "recbole_llm: what was measured"
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
