"""A published table, and what reads it: lookup, SQL, explanation, measurement."""

import datetime
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession

from recbole_llm.cli import main as cli
from recbole_llm.errors import ConfigError, NotFoundError
from recbole_llm.query import connect, lookup, run_sql
from recbole_llm.scoring import load_scorer
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.config import load_night_config
from spark_jobs.job import Job
from spark_jobs.measure_night import measure
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.conftest import HOME, make_night_config, night_runner
from tests.data import table_rows

pytestmark = pytest.mark.spark
DAY = "2024-05-02"


@pytest.fixture(scope="module")
def published(
    spark: SparkSession, prepared_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> Warehouse:
    """Two nights; the tests that use it only read."""
    folder = tmp_path_factory.mktemp("published")
    root = Path(shutil.copytree(prepared_once, folder / "warehouse"))
    run = night_runner(spark, root, make_night_config(folder))
    run("2024-05-01", steps=(score, publish))
    published: Warehouse = run(DAY, steps=(score, publish))
    return published


def _table(warehouse: Warehouse, day: str = DAY) -> list[tuple[Any, ...]]:
    return table_rows(warehouse.root, warehouse.published_run(day))


def test_every_active_user_has_k_unseen_items(published: Warehouse) -> None:
    rows = _table(published)
    users = sorted({row[1] for row in rows})
    assert users == sorted([*(f"u{n}" for n in range(10)), "new"])
    scorer = load_scorer(published.champion_artifact())
    for n in range(10):
        mine = [row for row in rows if row[1] == f"u{n}"]
        history = [f"i{(n + step) % 20}" for step in range(8)]  # two days of four items
        expected = scorer.top_k([history], 3)
        assert [row[3] for row in mine] == expected.item_ids[0]
        assert [row[4] for row in mine] == pytest.approx(list(expected.scores[0]), abs=1e-5)
    run = published.published_run(DAY)
    end_of_day = datetime.datetime(2024, 5, 3)
    assert {(row[0], row[6], row[7], row[8].replace(tzinfo=None)) for row in rows} == {
        (datetime.date(2024, 5, 2), run["model_version"], run["run_id"], end_of_day)
    }
    # Every item was met by at least one user; the most met first, ties by item id.
    n_events = Counter(f"i{(n + step) % 20}" for n in range(10) for step in range(8))
    popular = sorted(n_events, key=lambda item: (-n_events[item], item))[:3]
    fallback = [(row[2], row[3], row[5]) for row in rows if row[1] == "new"]
    assert fallback == [(rank, item, "popular") for rank, item in enumerate(popular, start=1)]
    shares = [row[4] for row in rows if row[1] == "new"]
    assert shares == pytest.approx([n_events[item] / 80 for item in popular])
    assert {row[5] for row in rows if row[1] != "new"} == {"model"}


def test_sql_opens_the_views_files_and_no_other(published: Warehouse) -> None:
    root = published.root
    features = root / published.published_run(None)["features_path"]
    database = connect(published)
    for name in ("recommendations", "recommendations_latest", "runs", "quarantine"):
        assert database.sql(f"SELECT * FROM {name}").fetchall()
    state = next((features / "sequences").glob("*.parquet"))
    for source in (
        f"'{state}'",
        f"read_parquet('{features}/sequences/*.parquet')",
        f"read_text('{published.published}')",
        f"read_blob('{root}/artifacts/*/items.json')",
        f"read_csv('{root}/raw/events/**')",
        f"glob('{root}/**')",
        f"parquet_metadata('{state}')",
        f"sniff_csv('{state}')",
        "read_json('https://example.org/x.json')",
        f"query($$ FROM '{state}' $$)",
    ):
        with pytest.raises(ConfigError, match="the query failed: Permission Error"):
            run_sql(published, f"SELECT * FROM {source}").fetchall()


def test_runs_and_quarantine_can_be_queried(
    published: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = run_sql(
        published,
        "SELECT ds::text, status, raw_rows, accepted_rows + quarantined_rows + duplicate_rows,"
        " n_rows, n_fallback_users FROM runs ORDER BY ds",
    ).fetchall()
    assert runs == [
        ("2024-05-01", "published", 42, 42, 33, 1), (DAY, "published", 42, 42, 33, 1)
    ]  # fmt: skip
    database = connect(published)
    count = "SELECT count(*), count(DISTINCT ds) FROM {}"
    assert database.execute(count.format("recommendations")).fetchall() == [(66, 2)]
    assert database.execute(count.format("recommendations_latest")).fetchall() == [(33, 1)]
    assert database.execute(count.format("quarantine")).fetchall() == [(4, 2)]
    assert database.execute(count.format("trainings")).fetchall() == [(0, 0)]
    decision = {"ds": DAY, "verdict": "refused", "lower": -0.5, "n_users": 9}
    replace_json(published.decisions / "one.json", decision)
    told = run_sql(published, "SELECT ds::text, verdict, lower, n_users, epochs FROM trainings")
    assert told.fetchall() == [(DAY, "refused", -0.5, 9, None)]
    (published.decisions / "one.json").unlink()
    root = ["--warehouse", str(published.root)]
    assert cli(["sql", *root, "--json", "SELECT count(*) AS n FROM recommendations"]) == 0
    assert capsys.readouterr().out == '{"n": 66}\n'
    assert cli(["lookup", *root, "--user", "u1", "--k", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["title"] for item in found["history"]] == [
        f"Title of i{n}" for n in (8, 7, 6, 5, 4)
    ]
    assert [row["rank"] for row in found["recommendations"]] == [1, 2]
    assert cli(["lookup", *root, "--user", "u1", "--day", "2024-05-01"]) == 0
    assert "user u1 on 2024-05-01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["lookup", "--user", "nobody"], 4, "user 'nobody' is not in the table of 2024-05-02"),
        (["lookup", "--user", "u1", "--day", "2024-05-09"], 4, "no table for 2024-05-09: 2 days"),
        (["sql", "DROP VIEW runs"], 2, "only one SELECT is allowed"),
        (["sql", "SELECT 1; SELECT 2"], 2, "only one SELECT is allowed, got 2"),
        (["sql", "SELECT nothing FROM runs"], 2, "the query failed"),
        (["sql", "SELECT user_id::INT FROM recommendations"], 2, "the query failed: Conversion"),
        (["sql", "SELECT * FROM read_text('/etc/hostname')"], 2, "the query failed"),
        (["sql", "COPY runs TO 'x.csv'"], 2, "only one SELECT is allowed"),
    ],
)
def test_bad_questions(
    published: Warehouse,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    code: int,
    message: str,
) -> None:
    assert cli([argv[0], "--warehouse", str(published.root), *argv[1:]]) == code
    assert message in capsys.readouterr().err


def test_a_published_row_is_explained(
    published: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--warehouse", str(published.root)]
    assert cli(["explain", *root, "--user", "u1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["read"] == [f"Title of i{n}" for n in (4, 5, 6, 7, 8)]
    rows = lookup(published, "u1").recommendations
    for item, row in zip(found["items"], rows, strict=True):
        assert (item["rank"], item["item_id"]) == (row["rank"], row["item_id"])
        assert item["score"] == pytest.approx(row["score"], abs=1e-4)
    assert len(found["notes"]) == 1
    assert "neither shares nor words: " in found["notes"][0]  # a random artifact has no texts


def test_the_readmes_duckdb_and_spark_examples(spark: SparkSession, published: Warehouse) -> None:
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    sql = readme.partition("```sql\n")[2].partition("```")[0]
    sql = sql.replace("'warehouse/", f"'{published.root}/").replace("'u_…'", "'u3'")
    with duckdb.connect() as database:
        rows = database.execute(sql.replace("2024-05-31", DAY)).fetchall()
    assert rows == [row for row in _table(published) if row[1] == "u3"]
    python = readme.partition("From Spark SQL:\n```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"spark": spark}
    exec(python.replace("warehouse/", f"{published.root}/"), names)  # noqa: S102
    assert spark.table("recommendations").count() == names["table"].count() == 66


def test_a_night_is_measured(spark: SparkSession, published: Warehouse) -> None:
    config = load_night_config(HOME / "configs" / "nightly.yaml")
    measure(Job(spark, published, config, DAY))
    # Each of u0 to u9 met n..n+3 on the first day and n+4..n+7 on the second. Items 3 to 9 have four
    # events each, so that the popular control is: for u0 4, 5, 6; u1 5, 6, 7; u2 6, 7, 8; u3 7, 8, 9;
    # u4 3, 8, 9; u5 3, 4, 9; then nothing that they met.
    second, third = 1 / math.log2(3), 1 / 2
    gains = [1 + second + third] * 4 + [second + third, third]
    control = (6 / 10, sum(gains) / (1 + second + third) / 10, (4 * 3 + 2 + 1) / 4 / 10)
    names = "control_hit, control_ndcg, control_recall, n_active_users, n_held_users, n_new_users"
    sql = f"SELECT {names}, n_first_users, quarantine_rate FROM metrics_daily"
    (row,) = run_sql(published, sql).fetchall()
    assert row == pytest.approx((*control, 10, 10, 0, 10, 2 / 42), abs=1e-6)
    run = published.published_run(DAY)
    lists = {
        n: [row[3] for row in _table(published, "2024-05-01") if row[1] == f"u{n}"]
        for n in range(10)
    }
    n_found = [len({f"i{(n + step) % 20}" for step in range(4, 8)} & set(lists[n])) for n in lists]
    (found,) = run_sql(published, "SELECT hit, recall, run_id FROM metrics_daily").fetchall()
    expected = (sum(n > 0 for n in n_found) / 10, sum(n_found) / 40)
    assert found == (*(pytest.approx(each, abs=1e-6) for each in expected), run["run_id"])


def test_before_the_first_night(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing is published"):
        lookup(Warehouse(tmp_path), "u1")
