"""Whole nights on the small warehouse: scored, audited, queried; repeated and broken."""

import datetime
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from recbole_llm.cli import main as cli
from recbole_llm.errors import ArtifactError, AuditError, ConfigError, DataError, NotFoundError
from recbole_llm.published import roll_back
from recbole_llm.query import connect, lookup, run_sql
from recbole_llm.scoring import load_scorer, write_artifact
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs import schemas
from spark_jobs.config import load_night_config
from spark_jobs.job import Job
from spark_jobs.measure_night import measure
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.conftest import HOME, make_night_config, make_small_warehouse, night_runner
from tests.data import random_artifact

pytestmark = pytest.mark.spark
DAY = "2024-05-02"


@pytest.fixture
def night(spark: SparkSession, small_warehouse: Path, small_night_config: Path) -> Any:
    """Runs nights on a warehouse of the test's own."""
    return night_runner(spark, small_warehouse, small_night_config)


@pytest.fixture(scope="module")
def published(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Two nights; the tests that use it only read."""
    folder = tmp_path_factory.mktemp("published")
    run = night_runner(spark, make_small_warehouse(folder / "warehouse"), make_night_config(folder))
    run("2024-05-01")
    published: Warehouse = run(DAY)
    return published


def _table(warehouse: Warehouse, day: str = DAY) -> list[tuple[Any, ...]]:
    path = warehouse.root / warehouse.published_run(day)["path"]
    with duckdb.connect() as database:
        return database.execute(
            f"SELECT * FROM '{path}/*.parquet' ORDER BY user_id, rank"
        ).fetchall()


def test_arrow_and_spark_schemas_are_one(spark: SparkSession) -> None:
    spark_fields = to_arrow_schema(schemas.RECOMMENDATIONS, timezone="UTC")
    assert [(field.name, field.type) for field in spark_fields] == [
        (field.name, field.type) for field in schemas.RECOMMENDATIONS_ARROW
    ]


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


def test_unknown_items_are_skipped_and_counted(night: Any) -> None:
    warehouse = night("2024-05-03", steps=(prepare, score))  # the champion does not know i19
    expected = sum((n + step) % 20 == 19 for n in range(10) for step in range(12))
    assert expected == 2
    assert warehouse.scored_manifest("2024-05-03")["n_unknown_items"] == expected


def test_repeats_are_allowed_by_a_setting(night: Any) -> None:
    warehouse = night(exclude_seen=False)
    scorer = load_scorer(warehouse.champion_artifact())
    history = [f"i{step}" for step in range(8)]
    mine = [row[3] for row in _table(warehouse) if row[1] == "u0"]
    assert mine == scorer.top_k([history], 3, exclude_seen=False).item_ids[0]


def test_a_repeated_night_replaces_only_its_day_with_the_same_rows(night: Any) -> None:
    night("2024-05-01")
    warehouse = night(DAY)
    first, other = _table(warehouse), warehouse.published_run("2024-05-01")
    before = warehouse.published_run(DAY)
    night(DAY)
    assert _table(warehouse) == first
    assert warehouse.published_run("2024-05-01") == other
    assert warehouse.published_run(DAY)["path"] != before["path"]
    for _ in range(2):
        night(DAY)
    kept = [path for path in warehouse.runs(DAY).glob("run_id=*/*") if path.is_dir()]
    assert len(kept) == 3  # the table, and two to roll back to
    roll_back(warehouse, DAY)
    assert _table(warehouse) == first


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


def test_a_lookup_after_the_days_state_was_deleted(night: Any) -> None:
    for day in ("2024-05-01", DAY, "2024-05-03"):
        warehouse = night(day, keep_days=1)
    found = lookup(warehouse, "u1", "2024-05-01", k=3)
    assert [row["title"][:8] for row in found.recommendations] == ["Title of"] * 3
    assert found.history == []
    assert len(lookup(warehouse, "u1", DAY).history) == 5


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
    sql = sql.replace("'warehouse/", f"'{published.root}/").replace("'42'", "'u3'")
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


def _rewrite(path: Path, query: str) -> None:
    """Replace a table's files by a query over the ``rows`` of each."""
    for file in path.glob("*.parquet"):
        with duckdb.connect() as database:
            database.execute(f"CREATE TABLE rows AS SELECT * FROM '{file}'")
            database.execute(f"COPY ({query}) TO '{file}'")


def test_a_faulty_table_is_not_published(night: Any) -> None:
    warehouse = night()
    before = _table(warehouse)
    night(steps=(score,))
    _rewrite(warehouse.root / warehouse.scored_manifest(DAY)["path"], "SELECT * FROM rows LIMIT 0")
    message = "failed its audit and is not published: absent_users=11; the table is empty"
    with pytest.raises(AuditError, match=message):
        night(steps=(publish,))
    assert _table(warehouse) == before
    runs = run_sql(warehouse, "SELECT status, faults FROM runs").fetchall()
    assert runs == [("failed", "absent_users=11; the table is empty")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_fallback_share": 0.05}, "fallback share 0.091 above max_fallback_share 0.05"),
        ({"max_row_change": 0.0}, None),
    ],
)
def test_bands(night: Any, setting: dict[str, float], message: str | None) -> None:
    night("2024-05-01")
    if message is None:
        night(DAY, **setting)  # as many rows as the day before
    else:
        with pytest.raises(AuditError, match=message):
            night(DAY, **setting)


def test_a_row_count_far_from_yesterdays(night: Any) -> None:
    night("2024-05-01")
    with pytest.raises(AuditError, match="44 rows against 33 on the last published day"):
        night(DAY, k=4, max_row_change=0.3)


def test_problems_are_found_on_the_driver(night: Any, small_night_config: Path) -> None:
    with pytest.raises(NotFoundError, match=f"no features for {DAY}: run prepare_features"):
        night(steps=(score,))
    warehouse = night(steps=(prepare,))
    with pytest.raises(
        DataError, match="k=21, but the catalogue of .* has 20 available items; lower"
    ):
        night(steps=(score,), k=21)
    with pytest.raises(ConfigError, match="markets must hold different names, got .'de', 'de'."):
        night(steps=(), markets=["de", "de"])
    night(steps=(), markets=[])
    feedback = load_night_config(small_night_config).feedback
    with pytest.raises(ConfigError, match="event types .'view'. stand in event_types and in feedb"):
        night(steps=(), feedback={**feedback, "hide": ["view"]})
    with pytest.raises(
        ConfigError, match="feedback must hold exactly .'like', .* got .'hide': .'hide'..$"
    ):
        night(steps=(), feedback={"hide": ["hide"]})
    with pytest.raises(ConfigError, match="feedback must hold different names, got .*'no', 'no'"):
        night(steps=(), feedback={**feedback, "hide": ["no"], "dislike": ["no"]})
    night(steps=(), feedback=feedback)
    with pytest.raises(ConfigError, match=r"category_damping must be in \(0, 1], got 0"):
        night(steps=(), category_damping=0)
    night(steps=(), category_damping=0.5)
    for setting, fault in (
        (
            {"freshness_half_life_days": -1},
            "freshness_half_life_days must be a number of at least 0",
        ),
        (
            {"freshness_half_life_days": 0.001},
            r"must be 0, for no fall with age, or in \[0.01, 100000",
        ),
        (
            {"event_fields": {"reader": "user_id"}},
            r"event_fields must be of the columns .*\['reader'\]",
        ),
        (
            {"event_fields": {"user_id": ["a", "b"]}},
            r"event_fields.user_id must be a column's name",
        ),
        (
            {"item_fields": {"title": []}},
            r"item_fields.title must be .* or for \['title', 'category",
        ),
        ({"item_fields": {"requires": ["a"]}}, "item_fields.requires must be a column's name"),
        ({"item_fields": {"title": "malformed"}}, "not 'malformed', .*got 'malformed'"),
    ):
        with pytest.raises(ConfigError, match=fault):
            night(steps=(), **setting)
        night(steps=(), event_fields={}, item_fields={}, freshness_half_life_days=0)
    with pytest.raises(ConfigError, match="k must be an integer of at least 1, got 0"):
        night(steps=(score,), k=0)
    night(steps=(), k=3)
    weights = warehouse.champion_artifact() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="is damaged"):
        night(steps=(score,))


def test_the_rules_of_a_shop(night: Any, small_warehouse: Path) -> None:
    """From raw rows to a published table: markets, categories and blocks, and their audit."""
    lines = [
        json.dumps(
            {"item_id": f"i{n}", "title": f"Title of i{n}", "category": f"c{n // 3}",
             "markets": "de" if n % 2 == 0 else "" if n == 1 else ["at", "de"]}
        )
        for n in range(20)
    ]  # fmt: skip
    (small_warehouse / "raw" / "items" / "items.jsonl").write_text("\n".join(lines) + "\n")
    noon = 1_714_651_200  # 2024-05-02T12:00:00Z
    events = [
        {"user_id": "u1", "item_id": "i0", "timestamp": noon + 9, "market": "at"},
        {"user_id": "u3", "item_id": "i18", "timestamp": noon + 9, "event_type": "hide"},
        {"user_id": "u4", "item_id": "i0", "timestamp": noon + 9, "market": "mars"},
    ]
    with (small_warehouse / "raw" / "events" / f"ds={DAY}" / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    warehouse = night(markets=["de", "at"], max_per_category=1)
    rows = _table(warehouse)
    of_user = {user: [row[3] for row in rows if row[1] == user] for user in ("u0", "u1", "u3")}
    assert all(int(item[1:]) % 2 for item in of_user["u1"])
    assert not all(int(item[1:]) % 2 for item in of_user["u0"])
    assert "i18" not in of_user["u3"]
    for user in {row[1] for row in rows}:
        assert len({int(row[3][1:]) // 3 for row in rows if row[1] == user}) == 3
    assert warehouse.features_manifest(DAY)["reasons"]["events.unknown_market"] == 1
    is_first = "user_id = '{}' AND rank = 1"
    table = warehouse.root / warehouse.scored_manifest(DAY)["path"]
    for user, item in (("u1", "i18"), ("u3", "i18")):
        change = f"if({is_first.format(user)}, '{item}', item_id) AS item_id"
        _rewrite(table, f"SELECT * REPLACE ({change}) FROM rows")
    with pytest.raises(AuditError, match="blocked_users=1; market_rows=1;"):
        night(steps=(publish,))


def test_a_new_model_is_a_new_run(night: Any) -> None:
    warehouse = night()
    before = warehouse.published_run(DAY)
    newer = write_artifact(random_artifact([f"i{n}" for n in range(20)], 5), warehouse.artifacts)
    replace_json(warehouse.champion, {"model_version": newer.name})
    night()
    after = warehouse.published_run(DAY)
    assert after["model_version"] == newer.name
    assert after["run_id"] != before["run_id"]


@pytest.mark.slow
def test_exit_codes_tell_bad_data_from_accidents(tmp_path: Path, small_night_config: Path) -> None:
    def run(script: str, config: Path, day: str = DAY) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(HOME / "spark_jobs" / f"{script}.py"), "--warehouse",
             str(tmp_path / "w"), "--config", str(config), "--day", day],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    code, err = run("prepare_features", small_night_config, "yesterday")
    assert (code, "ConfigError: a day is written YYYY-MM-DD" in err) == (2, True)
    code, err = run("prepare_features", small_night_config)
    assert (code, "DataError: no raw events" in err, "Traceback" in err) == (3, True, False)
    code, err = run("score_users", small_night_config)
    assert (code, "NotFoundError: no features" in err) == (4, True)
    bad = tmp_path / "bad.yaml"
    bad.write_text("kk: 3\n")
    code, err = run("publish", bad)
    assert (code, "unknown keys ['kk'], missing keys" in err) == (2, True)
