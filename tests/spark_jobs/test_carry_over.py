"""Nights that rank only what changed, against nights that rank everybody."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recbole_llm.scoring import write_artifact
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.carry_over import Base, find_carried
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.conftest import night_runner
from tests.data import random_artifact, table_rows, write_events

DAY, NEXT = "2024-05-01", "2024-05-02"
SECOND_HALF = (score, publish)
NOON = 1_714_564_800  # 2024-05-01T12:00:00Z


def _base(folder: Path, withdrawn: list[str], ranks: list[int] | None = None) -> Base:
    """Users a, c, e, g with two items each; e is on the fallback."""
    (folder / "table").mkdir()
    (folder / "sequences").mkdir()
    users = ["a", "a", "c", "c", "e", "e", "g", "g"]
    table = {
        "user_id": users,
        "rank": pa.array(ranks or [1, 2] * 4, pa.int16()),
        "item_id": ["i1", "i2", "i3", "i4", "i5", "i6", "i7", "i8"],
        "score": pa.array(np.arange(8), pa.float32()),
        "reason": ["model"] * 4 + ["popular"] * 2 + ["model"] * 2,
        "why": pa.array(["because", None] * 4, pa.string()),
    }
    pq.write_table(pa.table(table), folder / "table" / "0.parquet")
    state = pa.table({"user_id": ["a", "c", "e", "g"], "state_hash": [1, 3, 5, 7]})
    pq.write_table(state.slice(0, 3), folder / "sequences" / "0.parquet")
    pq.write_table(state.slice(3), folder / "sequences" / "1.parquet")
    return Base(str(folder / "table"), str(folder / "sequences"), withdrawn)


@pytest.mark.parametrize(
    ("hashes", "withdrawn", "stand"),
    [
        ([1, 2, 3, 5, 7, 9], [], "acg"),  # e is on the fallback, b and z are new
        ([1, 2, 4, 5, 7, 9], [], "ag"),
        ([1, 2, 3, 5, 7, 9], ["i4", "i9"], "ag"),
    ],
)
def test_a_list_stands_while_history_and_choice_do(
    tmp_path: Path, hashes: list[int], withdrawn: list[str], stand: str
) -> None:
    users = pa.chunked_array([["a", "b", "c"], ["e", "g", "z"]])
    found = find_carried(_base(tmp_path, withdrawn), users, pa.chunked_array([hashes]), 2)
    firsts = {"a": "i1", "c": "i3", "g": "i7"}
    assert {
        user: found.table["item_id"][start].as_py()
        for user, start in zip(users.to_pylist(), found.starts, strict=True)
        if start >= 0
    } == {user: firsts[user] for user in stand}


def test_a_range_without_users_of_before_and_a_table_in_disorder(tmp_path: Path) -> None:
    one = pa.chunked_array([["z"]]), pa.chunked_array([[1]])
    assert find_carried(_base(tmp_path, []), *one, 2).starts.tolist() == [-1]
    assert find_carried(None, *one, 2).starts.tolist() == [-1]
    (tmp_path / "x").mkdir()
    spoilt = _base(tmp_path / "x", [], ranks=[2, 1, 1, 2, 1, 2, 1, 2])
    users, hashes = pa.chunked_array([["a", "g"]]), pa.chunked_array([[1, 7]])
    assert find_carried(spoilt, users, hashes, 2).starts.tolist() == [-1, -1]


@pytest.fixture
def run_night(spark: SparkSession, prepared_warehouse: Path, small_night_config: Path) -> Any:
    """Two days: all ten users on the first, u0 to u2 and a new one on the second.

    The first day's features are there.
    """
    few = [{"user_id": f"u{n}", "item_id": "i9", "timestamp": NOON + 86_400} for n in range(3)]
    few.append({"user_id": "u05", "item_id": "i2", "timestamp": NOON + 86_400})
    write_events(Warehouse(prepared_warehouse).raw_events, NEXT, few)

    night = night_runner(spark, prepared_warehouse, small_night_config)

    def run(day: str, **settings: Any) -> dict[str, Any]:
        scored: dict[str, Any] = night(day, **settings).scored_manifest(day)
        return scored

    return run


@pytest.mark.spark
def test_a_night_that_carries_over_gives_what_a_full_one_gives(
    run_night: Any, prepared_warehouse: Path
) -> None:
    assert run_night(DAY, steps=SECOND_HALF)["n_carried_users"] == 0
    run = run_night(NEXT)
    assert run["n_carried_users"] == 7  # not u0 to u2, the new one, and the one on the fallback
    carried = table_rows(prepared_warehouse, run)
    full = run_night(NEXT, carry_over=False, steps=SECOND_HALF)
    assert (full["n_carried_users"], full["run_id"]) == (0, run["run_id"])
    expected = table_rows(prepared_warehouse, full)
    assert [row[:4] + row[5:] for row in carried] == [row[:4] + row[5:] for row in expected]
    np.testing.assert_allclose([row[4] for row in carried], [row[4] for row in expected], atol=1e-5)
    assert len(expected) == 12 * 3


@pytest.mark.spark
def test_what_makes_everybody_be_ranked_again(run_night: Any, prepared_warehouse: Path) -> None:
    warehouse = Warehouse(prepared_warehouse)
    items = warehouse.raw_items / "items.jsonl"
    whole = items.read_text()
    run_night(DAY, steps=SECOND_HALF)
    first = table_rows(prepared_warehouse, warehouse.scored_manifest(DAY))
    withdrawn = next(row[3] for row in first if row[1] == "u5")
    items.write_text("".join(x for x in whole.splitlines(True) if f'"{withdrawn}"' not in x))
    affected = {row[1] for row in first if row[3] == withdrawn} | {"u0", "u1", "u2"}
    run = run_night(NEXT)
    assert run["n_carried_users"] == 10 - len(affected - {"new"})
    assert withdrawn not in {row[3] for row in table_rows(prepared_warehouse, run)}
    items.write_text(whole)  # it is back: anyone may like it
    write_events(warehouse.raw_events, "2024-05-03", [])
    assert run_night("2024-05-03")["n_carried_users"] == 0
    write_events(warehouse.raw_events, "2024-05-04", [])
    assert run_night("2024-05-04")["n_carried_users"] == 11
    write_events(warehouse.raw_events, "2024-05-05", [])
    assert run_night("2024-05-05", k=4, max_row_change=0.5)["n_carried_users"] == 0
    newer = write_artifact(random_artifact([f"i{n}" for n in range(20)], 5), warehouse.artifacts)
    replace_json(warehouse.champion, {"model_version": newer.name})
    write_events(warehouse.raw_events, "2024-05-06", [])
    assert run_night("2024-05-06")["n_carried_users"] == 0
