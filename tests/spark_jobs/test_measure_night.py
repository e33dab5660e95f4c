"""Measured nights: every figure worked by hand on tables of two items a user."""

import datetime
import html
import json
import math
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from recbole_llm.errors import ConfigError, NotFoundError
from recbole_llm.figures import COLUMNS, FIGURES, write_figure
from recbole_llm.published import publish_run, roll_back
from recbole_llm.query import run_sql
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs import schemas
from spark_jobs.bands import judge
from spark_jobs.config import load_night_config
from spark_jobs.job import Job
from spark_jobs.measure_night import measure
from spark_jobs.report import render_night
from spark_jobs.table_figures import count_scores, population_stability, spread
from tests.conftest import HOME
from tests.data import MANIFEST

FIRST, DAY, LAST = "2024-05-01", "2024-05-02", "2024-05-03"
EVIL = '<script>alert("1")</script>'
SECOND_RANK = 1 / math.log2(3)
BOTH_RANKS = 1 + SECOND_RANK
Lists = dict[str, tuple[str, list[tuple[str, float]]]]

# The first table: u3 is on the fallback, u1 has met a and x, u2 b, u4 c.
HISTORIES = {"u1": ["a", "x"], "u2": ["b"], "u3": [], "u4": ["c"]}
TABLE: Lists = {
    "u1": ("model", [("c", 0.9), ("b", 0.5)]),
    "u2": ("model", [("a", 0.8), ("d", 0.4)]),
    "u3": ("popular", [("a", 0.5), ("b", 0.25)]),
    "u4": ("model", [("b", 0.7), ("e", 0.1)]),
}
N_EVENTS = {"a": 4, "b": 2, "c": 1, "d": 1, "e": 0, "x": 9}
# The day after. u1 comes back to a, u4 to c, nobody had recommended anything to u5.
ACTS = [("u1", "a"), ("u1", "c"), ("u2", "d"), ("u2", "e"), ("u3", "a"), ("u4", "c"), ("u5", "a")]
NEXT_HISTORIES = {
    "u1": ["a", "x", "a", "c"], "u2": ["b", "d", "e"], "u3": ["a"], "u4": ["b", "c", "c"],
    "u5": ["a"],
}  # fmt: skip
NEXT_TABLE: Lists = {
    "u1": ("model", [("d", 0.9), ("b", 0.5)]),
    "u2": ("model", [("a", 0.8), ("d", 0.4)]),
    "u3": ("popular", [("a", 0.5), ("b", 0.25)]),
    "u4": ("model", [("a", 0.7), ("b", 0.1)]),
    "u5": ("popular", [("a", 0.5), ("b", 0.25)]),
}
NEXT_N_EVENTS = {"a": 8, "b": 4, "c": 2, "d": 2, "e": 0, "f": 0, "x": 9}


def _write(path: Path, rows: list[dict[str, Any]], schema: StructType) -> None:
    path.mkdir(parents=True)
    arrow = to_arrow_schema(schema, timezone="UTC")
    pq.write_table(pa.Table.from_pylist(rows, arrow), path / "0.parquet")


def _write_day(
    warehouse: Warehouse,
    day: str,
    lists: Lists,
    histories: dict[str, list[str]],
    n_events: dict[str, int],
    acts: list[tuple[str, str]],
) -> None:
    """Write a day's state and its published table, as the jobs leave them.

    Delivered with the day, though of the day before: u4 meets b. u4 does not want a.
    """
    date = datetime.date.fromisoformat(day)
    noon = int(
        datetime.datetime(date.year, date.month, date.day, 12, tzinfo=datetime.UTC).timestamp()
    )
    state, table = (warehouse.root / name / f"ds={day}" / "0" for name in ("features", "runs"))
    _write(state / "sequences", [{"user_id": user, "item_ids": items} for user, items in
                                 histories.items()], schemas.SEQUENCES)  # fmt: skip
    first_seen = {"f": datetime.date.fromisoformat(DAY)}
    _write(
        state / "items",
        [{"item_id": item, "title": EVIL if item == "a" else f"Title {item}", "n_events": n,
          "first_seen": first_seen.get(item, datetime.date.fromisoformat(FIRST)),
          "available": item != "x"} for item, n in n_events.items()],
        schemas.ITEMS,
    )  # fmt: skip
    late = {"user_id": "u4", "item_id": "b", "timestamp": noon - 86_400, "says": ""}
    events = [
        {"user_id": user, "item_id": item, "timestamp": noon + n, "says": "like"}
        for n, (user, item) in enumerate(acts)
    ]
    events += [{"user_id": "u4", "item_id": "a", "timestamp": noon, "says": "hide"}]
    _write(state / "recent", [late, *events], schemas.RECENT)
    _write(
        state / "quarantine",
        [{"ds": date, "source": "events", "reason": "bad_rating", "raw": "{}"}] * 5,
        schemas.QUARANTINE,
    )
    _write(
        table,
        [{"ds": date, "user_id": user, "rank": rank, "item_id": item, "score": score, "reason": reason}
         for user, (reason, items) in lists.items()
         for rank, (item, score) in enumerate(items, start=1)],
        schemas.RECOMMENDATIONS,
    )  # fmt: skip
    manifest = {**MANIFEST, "ds": day, "path": str(state.relative_to(warehouse.root))}
    replace_json(warehouse.features(day) / "manifest.json", manifest)
    run = {
        "ds": day, "run_id": f"{day}-0", "model_version": "m", "k": 2, "n_rows": 2 * len(lists),
        "path": str(table.relative_to(warehouse.root)), "settings": {"exclude_seen": True},
        "features_path": str(state.relative_to(warehouse.root)),
    }  # fmt: skip
    publish_run(warehouse, run, keep_runs=2)
    counts = {"raw_rows": 20, "accepted_rows": 10, "late_rows": 1, "quarantined_rows": 5,
              "duplicate_rows": 5}  # fmt: skip
    seconds = {"features_seconds": 3.0, "score_seconds": 2.0, "publish_seconds": 1.0}
    warehouse.log_run(run["run_id"], {**run, **counts, **seconds, "status": "published"})


@pytest.fixture(scope="module")
def job(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Two measured days; a third is published."""
    warehouse = Warehouse(tmp_path_factory.mktemp("measured"))
    _write_day(warehouse, FIRST, TABLE, HISTORIES, N_EVENTS, [("u1", "a")])
    later = (NEXT_TABLE, NEXT_HISTORIES, NEXT_N_EVENTS)
    _write_day(warehouse, DAY, *later, ACTS)
    _write_day(warehouse, LAST, *later, [])
    config = load_night_config(HOME / "configs" / "nightly.yaml")
    for day in (FIRST, DAY):
        measure(Job(spark, warehouse, config, day))
    return Job(spark, warehouse, config, DAY)


@pytest.mark.spark
class TestNights:
    """These share the measured days and leave them as they are."""

    def test_every_figure(self, job: Job) -> None:
        row = job.warehouse.measured_days()[DAY]
        ndcg = [1 / BOTH_RANKS, SECOND_RANK / BOTH_RANKS, 1, 0]  # of u1 to u4
        expected = {
            "hit": 3 / 4, "ndcg": 2 / 4, "recall": (1 / 2 + 1 / 2 + 1) / 4,
            "hit_stderr": statistics.stdev([1, 1, 1, 0]) / 2,
            "ndcg_stderr": statistics.stdev(ndcg) / 2,
            # u1 would have had b and c, u2 a and c, u3 a and b, u4 a and b.
            "control_hit": 2 / 4, "control_ndcg": (SECOND_RANK / BOTH_RANKS + 1) / 4,
            "control_recall": (1 / 2 + 1) / 4,
            # Of u1's items a is no first, of u4 nothing is.
            "first_hit": 3 / 3, "first_ndcg": (1 + SECOND_RANK / BOTH_RANKS + 1) / 3,
            "first_recall": (1 + 1 / 2 + 1) / 3,
            "control_first_hit": 2 / 3, "control_first_ndcg": (SECOND_RANK + 1) / 3,
            "fallback_hit": 1, "fallback_ndcg": 1,
            "n_active_users": 5, "n_held_users": 4, "n_first_users": 3,
            "n_fallback_held_users": 1,
            # a 4 times, b 4 times, d twice of ten; c, e and f never.
            "coverage": 3 / 6, "gini": (1 * 2 + 3 * 4 + 5 * 4) / (6 * 10),
            "novelty": (4 * 1 + 4 * 2 + 2 * 3) / 10, "popular_share": 4 / 10,
            "fallback_share": 2 / 5, "overlap": (1 / 3 + 1 + 1 + 1 / 3) / 4, "score_psi": 0,
            "n_users": 5, "n_new_users": 1, "n_rows": 10, "n_items": 6, "n_new_items": 1,
            "raw_rows": 20, "quarantine_rate": 5 / 20, "duplicate_rate": 5 / 20,
            "late_rate": 1 / 10,
            "features_seconds": 3, "score_seconds": 2, "publish_seconds": 1,
            "measure_seconds": row["measure_seconds"],
        }  # fmt: skip
        assert {name: row[name] for name in FIGURES} == pytest.approx(expected, abs=1e-6)
        assert row["measure_seconds"] > 0
        assert (row["base_ds"], row["base_run_id"], row["base_k"]) == (FIRST, f"{FIRST}-0", 2)

    def test_the_first_night_has_no_table_to_hold(self, job: Job) -> None:
        row = job.warehouse.measured_days()[FIRST]
        absent = {name for name in FIGURES if row[name] is None}
        outcome = ("hit", "ndcg", "recall", "control_", "first_", "fallback_", "n_held_users",
                   "n_first_users", "n_fallback_held", "overlap", "score_psi", "n_new_")  # fmt: skip
        assert absent == {name for name in FIGURES if name.startswith(outcome)} - {"fallback_share"}
        assert row["base_ds"] is None
        assert (row["coverage"], row["n_active_users"]) == (1, 1)

    def test_a_repeated_measurement_gives_the_same_row_and_warnings(
        self, job: Job, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = job.warehouse.measured_days()[DAY]
        measure(job)
        again = job.warehouse.measured_days()[DAY]
        assert {**again, "measure_seconds": 0} == {**before, "measure_seconds": 0}
        told = [
            "fallback_share 40.00%, band at most 20.00%",
            "quarantine_rate 25.00%, band at most 5.00%",
        ]
        warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert warnings == [f"night of {DAY}: {words}" for words in told]
        assert (again["n_warnings"], again["warnings"]) == (2, "; ".join(told))
        page = job.warehouse.report(DAY).read_text()
        assert "2 of 5 watched figures left their bands" in page
        assert "<b>Fallback share</b> 40.00%, band at most 20.00%" in page

    def test_the_view_has_a_row_a_day(self, job: Job) -> None:
        relation = run_sql(job.warehouse, "SELECT * FROM metrics_daily ORDER BY ds")
        assert relation.columns == list(COLUMNS)
        rows = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
        assert [str(row["ds"]) for row in rows] == [FIRST, DAY]
        assert (rows[0]["hit"], rows[1]["hit"], rows[1]["n_rows"]) == (None, 0.75, 10)

    def test_the_report_holds_every_figure_and_fetches_nothing(self, job: Job) -> None:
        row = job.warehouse.measured_days()[DAY]
        page = job.warehouse.report(DAY).read_text()
        cells = re.findall(r"<tr><td><code>(\w+)</code>.*?<b>(.*?)</b>", page, re.DOTALL)
        assert dict(cells) == {n: write_figure(FIGURES[n].unit, row[n]) for n in FIGURES}
        assert page.count("<svg") == 14
        assert "#0101" not in page  # a stand-in colour
        links = re.findall(r'(?:href|src|url)\s*[=(]\s*"?([^")>]+)', page)
        assert all(link.startswith(("#", "../")) for link in links)
        assert "bad_rating" in page

    def test_foreign_text_is_escaped(self, job: Job) -> None:
        page = job.warehouse.report(DAY).read_text()
        assert "<script" not in page
        assert html.escape(EVIL).replace("&quot;", "&#34;") in page

    def test_a_day_that_was_rolled_back(self, job: Job, tmp_path: Path) -> None:
        shutil.copytree(job.warehouse.root, tmp_path / "warehouse")
        warehouse = Warehouse(tmp_path / "warehouse")
        roll_back(warehouse, DAY)
        measure(Job(job.spark, warehouse, replace(job.config, band_nights=1), LAST))
        row = warehouse.measured_days()[LAST]
        assert row["base_ds"] == FIRST
        # Nobody did anything on that day: no figure, not a figure of 0.
        assert (row["n_active_users"], row["n_held_users"], row["hit"]) == (0, 0, None)
        # The first day's coverage is what the night is compared with, not the withdrawn one's.
        assert '<td class="n muted">▼ 50.0%</td>' in warehouse.report(LAST).read_text()
        nights = (warehouse.reports / "index.html").read_text()
        assert re.findall(r'href="ds=([\d-]+)/index.html">[\d-]+</a>(<small>its)?', nights) == [
            (LAST, ""), (DAY, "<small>its"), (FIRST, ""),
        ]  # fmt: skip
        with pytest.raises(NotFoundError, match=f"no table for {DAY}"):
            measure(Job(job.spark, warehouse, job.config, DAY))

    def test_states_that_were_deleted(
        self, job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shutil.copytree(job.warehouse.root, tmp_path / "warehouse")
        warehouse = Warehouse(tmp_path / "warehouse")
        for name in ("sequences", "items", "recent"):
            shutil.rmtree(warehouse.features(FIRST) / "0" / name)
        measure(replace(job, warehouse=warehouse))
        row = warehouse.measured_days()[DAY]
        assert (row["hit"], row["control_hit"], row["first_hit"]) == (0.75, None, None)
        assert f"the state behind the table of {FIRST} was deleted" in caplog.text
        with pytest.raises(NotFoundError, match=f"the state behind the table of {FIRST} was"):
            measure(Job(job.spark, warehouse, job.config, FIRST))

    def test_scores_of_two_tables_in_bins(self, job: Job) -> None:
        def table(scores: list[float]) -> Any:
            rows = [("model", score) for score in scores] + [("popular", 99.0)]
            return job.spark.createDataFrame(rows, "reason string, score float")

        found = count_scores(table([0.0, 1.0]), table([-1.0, 0.0, 0.001, 1.0]))
        assert found is not None
        assert (found.least, found.most) == (-1, 1)
        assert np.flatnonzero(found.now).tolist() == [500, 999]
        assert {n: int(found.before[n]) for n in np.flatnonzero(found.before)} == {
            0: 1, 500: 2, 999: 1,
        }  # fmt: skip
        assert count_scores(table([]), None) is None


def test_spread_of_nothing() -> None:
    zeros = np.zeros(3, dtype=np.int64)
    assert spread(zeros, zeros) == {"n_items": 3}
    one = np.array([0, 0, 7])
    assert spread(zeros, one) == {
        "n_items": 3, "coverage": pytest.approx(1 / 3), "gini": pytest.approx(2 / 3), "novelty": 0,
        "popular_share": 0,
    }  # fmt: skip


def test_population_stability() -> None:
    before = np.full(10, 10)
    now = np.array([20, *[10] * 8, 0])
    expected = 0.1 * math.log(2) + (1e-4 - 0.1) * math.log(1e-4 / 0.1)
    assert population_stability(before, now) == pytest.approx(expected)
    assert population_stability(before, 7 * before) == 0
    # Half of before lies in one bin: it is a group, and moving within it is no drift.
    assert population_stability(np.array([5, 5]), np.array([10, 0]), 2) == pytest.approx(
        0.5 * math.log(2) + (1e-4 - 0.5) * math.log(1e-4 / 0.5)
    )
    assert population_stability(before, np.zeros(10, dtype=int)) is None


def _nights(*values: float | None) -> list[dict[str, Any]]:
    return [{"hit": value} for value in values]


def test_bands() -> None:
    def out(value: float | None, history: list[dict[str, Any]], **band: float) -> str:
        judged = judge({"hit": value, "hit_stderr": 0.01}, history, {"hit": band})["hit"]
        return judged.words if judged.is_out else ""

    past = _nights(0.1, 0.3, None, 0.2)  # median 0.2
    assert out(0.319, past, change=0.5) == ""  # half of the median and two standard errors
    assert out(0.321, past, change=0.5) == "hit 32.10%, band 8.00% to 32.00%"
    assert out(0.079, past, change=0.5) == "hit 7.90%, band 8.00% to 32.00%"
    assert out(0.9, past[1:], change=0.5) == ""  # two nights say nothing
    assert out(0.1, [], least=0.2) == "hit 10.00%, band at least 20.00%"
    assert out(0.1, past, change=0.5, least=0.2) == "hit 10.00%, band 20.00% to 32.00%"
    assert out(0.2, [], least=0.2, most=0.2) == ""
    assert out(None, past, change=0.5, least=0.2) == ""
    assert out(0.0, past, change=2.0) == ""  # nothing is below 0: no lower end
    assert out(0.63, past, change=2.0) == "hit 63.00%, band at most 62.00%"
    assert judge({"hit": 1.0}, past, {"hit": {"change": 9.0}})["hit"].band == ""
    judged = judge({"hit": 0.1}, past, {})["hit"]
    assert (judged.before, judged.median, judged.band) == (0.2, 0.2, "")


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"coverge": {"least": 0}}, "no figure is called 'coverge'; did you mean 'coverage'?"),
        ({"hit": 0.3}, r"hit must have some of \['change', 'least', 'most'\], got 0.3"),
        ({"hit": {"above": 1}}, "hit must have some of"),
        ({"hit": {"least": "x"}}, "least of hit must be a number, got 'x'"),
        ({"hit": {"change": 0}}, "change of hit must be a number above 0, got 0"),
    ],
)
def test_a_misspelt_band(bands: dict[str, Any], message: str) -> None:
    config = load_night_config(HOME / "configs" / "nightly.yaml")
    with pytest.raises(ConfigError, match=message):
        replace(config, bands=bands)


def test_a_report_without_scores_or_faults() -> None:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"ds": DAY, "n_users": 0, "details": {"top_items": [], "reasons": {}, "scores": None}}
    page = render_night(row, [], judge(row, [], {}))
    assert "No row was quarantined." in page
    assert "No user was ranked by the model." in page
    assert json.dumps(None) not in page
    assert "None" not in page.replace(">None<", "")
