"""Whole nights on the small warehouse: scored and audited, repeated and broken."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from recbole_llm.errors import ArtifactError, AuditError, ConfigError, DataError, NotFoundError
from recbole_llm.published import roll_back
from recbole_llm.query import lookup, run_sql
from recbole_llm.scoring import load_scorer, write_artifact
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs import schemas
from spark_jobs.config import load_night_config
from spark_jobs.job import run_each
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.conftest import HOME, night_runner
from tests.data import random_artifact, table_rows

pytestmark = pytest.mark.spark
DAY = "2024-05-02"


@pytest.fixture
def night(spark: SparkSession, small_warehouse: Path, small_night_config: Path) -> Any:
    """Runs nights on a warehouse of the test's own."""
    return night_runner(spark, small_warehouse, small_night_config)


@pytest.fixture
def second_half(spark: SparkSession, prepared_warehouse: Path, small_night_config: Path) -> Any:
    """Runs what follows the features, which are there for two days."""
    run = night_runner(spark, prepared_warehouse, small_night_config)
    return partial(run, steps=(score, publish))


def _table(warehouse: Warehouse, day: str = DAY) -> list[tuple[Any, ...]]:
    return table_rows(warehouse.root, warehouse.published_run(day))


def test_arrow_and_spark_schemas_are_one(spark: SparkSession) -> None:
    spark_fields = to_arrow_schema(schemas.RECOMMENDATIONS, timezone="UTC")
    assert [(field.name, field.type) for field in spark_fields] == [
        (field.name, field.type) for field in schemas.RECOMMENDATIONS_ARROW
    ]


def test_unknown_items_are_skipped_and_counted(night: Any) -> None:
    warehouse = night("2024-05-03", steps=(prepare, score))  # the champion does not know i19
    expected = sum((n + step) % 20 == 19 for n in range(10) for step in range(12))
    assert expected == 2
    assert warehouse.scored_manifest("2024-05-03")["n_unknown_items"] == expected


def test_repeats_are_allowed_by_a_setting(second_half: Any) -> None:
    warehouse = second_half(exclude_seen=False)
    scorer = load_scorer(warehouse.champion_artifact())
    history = [f"i{step}" for step in range(8)]
    mine = [row[3] for row in _table(warehouse) if row[1] == "u0"]
    assert mine == scorer.top_k([history], 3, exclude_seen=False).item_ids[0]


def test_a_repeated_night_replaces_only_its_day_with_the_same_rows(second_half: Any) -> None:
    second_half("2024-05-01")
    warehouse = second_half(DAY)
    first, other = _table(warehouse), warehouse.published_run("2024-05-01")
    before = warehouse.published_run(DAY)
    second_half(DAY, steps=(prepare, score, publish))
    assert _table(warehouse) == first
    assert warehouse.published_run("2024-05-01") == other
    assert warehouse.published_run(DAY)["path"] != before["path"]
    for _ in range(2):
        second_half(DAY)
    kept = [path for path in warehouse.runs(DAY).glob("run_id=*/*") if path.is_dir()]
    assert len(kept) == 3  # the table, and two to roll back to
    roll_back(warehouse, DAY)
    assert _table(warehouse) == first


def test_a_lookup_after_the_days_state_was_deleted(second_half: Any) -> None:
    for day in ("2024-05-01", DAY):
        second_half(day, keep_days=1)
    warehouse = second_half("2024-05-03", steps=(prepare, score, publish))
    found = lookup(warehouse, "u1", "2024-05-01", k=3)
    assert [row["title"][:8] for row in found.recommendations] == ["Title of"] * 3
    assert found.history == []
    assert len(lookup(warehouse, "u1", DAY).history) == 5


def _rewrite(path: Path, query: str) -> None:
    """Replace a table's files by a query over the ``rows`` of each."""
    for file in path.glob("*.parquet"):
        with duckdb.connect() as database:
            database.execute(f"CREATE TABLE rows AS SELECT * FROM '{file}'")
            database.execute(f"COPY ({query}) TO '{file}'")


def test_a_faulty_table_is_not_published(second_half: Any) -> None:
    warehouse = second_half()
    before = _table(warehouse)
    second_half(steps=(score,), dislike_weight=0.9)
    _rewrite(warehouse.root / warehouse.scored_manifest(DAY)["path"], "SELECT * FROM rows LIMIT 0")
    message = "failed its audit and is not published: absent_users=11; the table is empty"
    with pytest.raises(AuditError, match=message):
        second_half(steps=(publish,))
    assert _table(warehouse) == before
    runs = run_sql(warehouse, "SELECT status, faults FROM runs ORDER BY status").fetchall()
    assert runs == [("failed", "absent_users=11; the table is empty"), ("published", "")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_fallback_share": 0.05}, "fallback share 0.091 above max_fallback_share 0.05"),
        ({"max_row_change": 0.0}, None),
    ],
)
def test_bands(second_half: Any, setting: dict[str, float], message: str | None) -> None:
    second_half("2024-05-01")
    if message is None:
        second_half(DAY, **setting)  # as many rows as the day before
    else:
        with pytest.raises(AuditError, match=message):
            second_half(DAY, **setting)


def test_a_row_count_far_from_yesterdays(second_half: Any) -> None:
    second_half("2024-05-01")
    with pytest.raises(AuditError, match="44 rows against 33 on the last published day"):
        second_half(DAY, k=4, max_row_change=0.3)


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


@pytest.mark.parametrize("markets", [[], ["de", "at"]])
def test_who_has_hidden_nearly_everything_holds_up_nobody(
    night: Any, small_warehouse: Path, markets: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    hide = {"user_id": "u1", "timestamp": 1_714_651_209, "event_type": "hide"}
    lines = [json.dumps({**hide, "item_id": f"i{n}"}) + "\n" for n in range(18)]
    with (small_warehouse / "raw" / "events" / f"ds={DAY}" / "events.jsonl").open("a") as file:
        file.writelines(lines)
    warehouse = night("2024-05-01", markets=markets)
    everybody = {row[1] for row in _table(warehouse, "2024-05-01")}
    for day in (DAY, "2024-05-03"):
        night(day)
        assert {row[1] for row in _table(warehouse, day)} >= everybody - {"u1"}
        assert "u1" not in {row[1] for row in _table(warehouse, day)}
    found = run_sql(warehouse, "SELECT n_short_users FROM runs ORDER BY ds").fetchall()
    assert found == [(0,), (1,), (1,)]
    assert "1 of 11 users get no list: fewer than k=3 items are left" in caplog.text
    with pytest.raises(AuditError, match=r"fallback share 0\.\d+ above max_fallback_share 0"):
        night("2024-05-03", max_fallback_share=0)
    assert run_sql(warehouse, "SELECT status FROM runs").fetchall() == [("published",)] * 3


def test_a_new_model_is_a_new_run(second_half: Any) -> None:
    warehouse = second_half()
    before = warehouse.published_run(DAY)
    newer = write_artifact(random_artifact([f"i{n}" for n in range(20)], 5), warehouse.artifacts)
    replace_json(warehouse.champion, {"model_version": newer.name})
    second_half()
    after = warehouse.published_run(DAY)
    assert after["model_version"] == newer.name
    assert after["run_id"] != before["run_id"]


def _fail(batches: Any) -> Any:
    for batch in batches:
        raise DataError(f"{batch.column('name')[0].as_py()} is no good:\nwhy")


def test_a_workers_error_is_the_jobs(spark: SparkSession) -> None:
    with pytest.raises(DataError, match="^this is no good:$"):
        run_each(spark, [("this",)], "name string", _fail, schemas.SCORED_FILES)


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
