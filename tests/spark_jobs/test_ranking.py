"""Lists and their audit on a hand-made state, without Spark: what a worker does with one file."""

import datetime
import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llm.compress_artifact import compress_artifact
from recbole_llm.lists.catalogue import read_catalogue
from recbole_llm.lists.ranker import ListSettings
from recbole_llm.scoring import load_scorer, why, write_artifact
from spark_jobs.audit import Promise, audit_file
from spark_jobs.ranking import RankingTask, score_file
from tests.data import random_artifact

ITEMS = [f"i{n}" for n in range(20)]
"""The model does not know i19. In threes of a category; i0 has none and i7 is not available."""
MARKETS = ["de", "at"]
HISTORIES = {f"u{n}": [ITEMS[(n + step) % 20] for step in range(8)] for n in range(10)}
NO_WISHES = ("disliked_ids", "unread_ids", "damped_categories")
BLOCKED = {"u3": ["i12", "i18"], "new": ["i3"], "lost": ["i19"]}
DAY = datetime.date(2024, 5, 2)


def _sold_in(n: int) -> list[str]:
    """Even ones in ``de`` alone, i1 everywhere, the others in both."""
    return ["de"] if n % 2 == 0 else [] if n == 1 else ["at", "de"]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A day's ``items`` and ``sequences``, u1 in ``at``, the others in ``de`` or nowhere."""
    folder = tmp_path_factory.mktemp("features")
    histories = {**HISTORIES, "new": [], "lost": ["i19"]}
    users = sorted(histories)
    n_events = Counter(item for seq in histories.values() for item in seq)
    items = {
        "item_id": ITEMS,
        "category": ["" if n == 0 else f"c{n // 3}" for n in range(20)],
        "n_events": [n_events[item] for item in ITEMS],
        "available": [n != 7 for n in range(20)],
        "markets": pa.array([_sold_in(n) for n in range(20)], pa.list_(pa.string())),
    }
    lists = pa.list_(pa.string())
    state = {
        "user_id": users,
        "item_ids": pa.array([histories[user] for user in users], lists),
        "blocked_ids": pa.array([BLOCKED.get(user, []) for user in users], lists),
        **{name: pa.array([[]] * len(users), lists) for name in NO_WISHES},
        "market": pa.array([{"u1": "at", "u2": "de"}.get(user) for user in users], pa.string()),
        "state_hash": pa.array(range(len(users)), pa.int64()),
    }
    for name, table in (("items", items), ("sequences", state)):
        (folder / name).mkdir()
        pq.write_table(pa.table(table), folder / name / "part-0.snappy.parquet")
    return folder


def _task(features: Path, folder: Path, markets: list[str], **settings: Any) -> RankingTask:
    artifact = write_artifact(random_artifact(ITEMS[:19]), folder / "artifacts")
    (folder / "table").mkdir()
    of_task = {
        name: settings.pop(name) for name in ("k", "artifact", "model_version") if name in settings
    }
    task = RankingTask(
        artifact=str(artifact), output=str(folder / "table"), day=DAY, run_id="r",
        model_version=artifact.name, k=3,
        settings=ListSettings(
            default_market=markets[0] if markets else "",
            **{"dislike_weight": 0.5, "category_damping": 0.5, **settings},
        ),
        users_per_batch=5,
        generated_at=datetime.datetime(2024, 5, 3, tzinfo=datetime.UTC),
        catalogue=SimpleNamespace(value=read_catalogue(features, markets)),  # type: ignore[arg-type]
        base=SimpleNamespace(value=None),  # type: ignore[arg-type]
    )  # fmt: skip
    return replace(task, **of_task)


def _promise(features: Path, task: RankingTask, markets: list[str]) -> Promise:
    return Promise(
        str(features / "items"), task.k, task.settings.exclude_seen,
        task.settings.max_per_category, markets, task.settings.explain_ranks,
        {"ds": DAY, "run_id": task.run_id, "model_version": task.model_version},
    )  # fmt: skip


def _score(
    features: Path, folder: Path, markets: list[str], **settings: Any
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int], RankingTask]:
    """The lists by user, what the audit counts in them, and the task."""
    task = _task(features, folder, markets, **settings)
    sequences = features / "sequences" / "part-0.snappy.parquet"
    told = score_file(sequences, task)
    table = Path(task.output) / str(told["file"])
    counts = audit_file(str(table), str(sequences), _promise(features, task, markets))
    rows = pq.read_table(table).to_pylist()
    lists = {user: list(rows) for user, rows in itertools.groupby(rows, lambda row: row["user_id"])}
    assert told["n_users"] == counts["n_users"] == len(lists) == 12
    assert {name: n for name, n in counts.items() if name.startswith("bad_") and n} == {}
    return lists, counts, task


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("cap", [0, 1])
@pytest.mark.parametrize("markets", [[], MARKETS])
def test_the_models_rows_are_the_best_within_the_rules(
    features: Path, tmp_path: Path, markets: list[str], cap: int, exclude_seen: bool
) -> None:
    lists, _, task = _score(
        features, tmp_path, markets, max_per_category=cap, exclude_seen=exclude_seen
    )
    scorer = load_scorer(task.artifact)
    for user, history in HISTORIES.items():
        market = ("at" if user == "u1" else "de") if markets else None
        allowed = [
            item
            for n, item in enumerate(ITEMS[:19])
            if n != 7
            and item not in BLOCKED.get(user, [])
            and (market is None or not _sold_in(n) or market in _sold_in(n))
            and not (exclude_seen and item in history)
        ]
        expected: list[str] = []
        for item in scorer.top_k([history], len(allowed), False, allowed).item_ids[0]:
            mates = [other for other in expected if int(other[1:]) // 3 == int(item[1:]) // 3]
            if not cap or item == "i0" or not set(mates) - {"i0"}:
                expected.append(item)
        of_model = [row["item_id"] for row in lists[user] if row["reason"] == "model"]
        assert of_model == expected[:3], user


def test_a_list_follows_what_its_user_said(features: Path, tmp_path: Path) -> None:
    """u0 will not have i6 read, u1 dislikes i12, u2 wants less of c4; u4 lets nothing be read."""
    said = {
        "disliked_ids": {"u1": ["i12"]}, "blocked_ids": {"u1": ["i12"]},
        "unread_ids": {"u0": ["i6", "i18"], "u1": ["i12"], "u4": HISTORIES["u4"]},
        "damped_categories": {"u2": ["c4", "gone"]},
    }  # fmt: skip
    folder = tmp_path / "said"
    shutil.copytree(features, folder)
    path = folder / "sequences" / "part-0.snappy.parquet"
    state = pq.read_table(path).to_pydict()
    for name, by_user in said.items():
        state[name] = [by_user.get(user, []) for user in state["user_id"]]
    pq.write_table(pa.table(state, pq.read_schema(path)), path)
    lists, _, task = _score(folder, tmp_path, [], category_damping=0.01, k=5)
    plain, _, _ = _score(features, tmp_path / "plain", [], k=5)
    scorer, allowed = load_scorer(task.artifact), set(ITEMS[:19]) - {"i7"}

    def items(user: str, of: dict[str, list[dict[str, Any]]] = lists) -> list[str]:
        return [row["item_id"] for row in of[user]]

    history = [item for item in HISTORIES["u0"] if item != "i6"]
    expected = scorer.top_k([history], 5, False, allowed - {*HISTORIES["u0"]})
    assert items("u0") == expected.item_ids[0]
    scores = [row["score"] for row in lists["u0"]]
    assert scores == pytest.approx(expected.scores[0].tolist(), abs=1e-5)
    assert scores != pytest.approx([row["score"] for row in plain["u0"]], abs=1e-3)
    assert "i12" not in items("u1")
    before = {row["item_id"]: row["score"] for row in plain["u1"]}
    assert any(row["score"] != before.get(row["item_id"]) for row in lists["u1"])
    left = scorer.top_k([HISTORIES["u2"]], 10, eligible=allowed)
    odds = dict(zip(left.item_ids[0], np.exp(left.scores[0]), strict=True))
    damped = {item: n * 0.01 if item in ("i12", "i13", "i14") else n for item, n in odds.items()}
    assert items("u2") == sorted(damped, key=lambda item: -damped[item])[:5] != items("u2", plain)
    assert {row["reason"] for row in lists["u4"]} == {"popular"}
    assert not set(items("u4")) & set(HISTORIES["u4"])
    assert items("u5") == items("u5", plain)


@pytest.mark.parametrize("markets", [[], MARKETS])
def test_the_first_ranks_say_why(features: Path, tmp_path: Path, markets: list[str]) -> None:
    lists, _, task = _score(features, tmp_path, markets, explain_ranks=2)
    scorer = load_scorer(task.artifact)
    for user, rows in lists.items():
        expected: list[str | None] = [None] * 3
        if rows[0]["reason"] == "model":
            history = np.array([scorer.row(item) for item in HISTORIES[user] if scorer.row(item)])
            ranked = np.array([[scorer.row(row["item_id"]) for row in rows[:2]]])
            found = why(scorer, history, np.array([len(history)]), ranked)
            expected[:2] = [each or None for each in found.sentences(scorer.artifact.titles)[0]]
        assert [row["why"] for row in rows] == expected
    said = {row["why"] for rows in lists.values() for row in rows} - {None}
    assert len(said) > 5
    assert all(each.startswith("because of Title of i") for each in said)


def test_a_compressed_artifact_serves(features: Path, tmp_path: Path) -> None:
    plain = write_artifact(random_artifact(ITEMS[:19]), tmp_path / "plain")
    smaller = compress_artifact(plain, "int6")
    lists, _, task = _score(
        features, tmp_path, [], artifact=str(smaller), model_version=smaller.name
    )
    allowed = set(ITEMS[:19]) - {"i7"}
    expected = load_scorer(smaller).top_k([HISTORIES["u0"]], 3, eligible=allowed)
    assert [row["item_id"] for row in lists["u0"]] == expected.item_ids[0]
    assert {row["model_version"] for row in lists["u0"]} == {smaller.name}
    assert task.model_version != plain.name


def test_a_list_that_the_model_cannot_fill(features: Path, tmp_path: Path) -> None:
    lists, counts, _ = _score(features, tmp_path, [], k=14)
    rows = lists["u1"]  # met i1 to i8; i7 is not to be had
    assert [row["reason"] for row in rows] == ["model"] * 11 + ["popular"] + ["repeat"] * 2
    assert rows[11]["item_id"] == "i19"
    assert {row["item_id"] for row in rows[12:]} <= set(HISTORIES["u1"]) - {"i7"}
    assert all(later["score"] <= row["score"] for row, later in itertools.pairwise(rows))
    assert counts["n_fallback_users"] == 2  # new and lost
    assert counts["n_filled_rows"] == sum(
        row["reason"] != "model" for rows in lists.values() for row in rows
    )


def test_a_cap_that_cannot_be_kept(features: Path, tmp_path: Path) -> None:
    """Seven categories and i0: a ninth row of a user who has met nothing is beyond the cap."""
    lists, _, _ = _score(features, tmp_path, [], k=10, max_per_category=1)
    reasons = Counter(row["reason"] for row in lists["new"])
    assert reasons == {"popular": 8, "uncapped": 2}
    capped = [int(row["item_id"][1:]) // 3 for row in lists["new"] if row["item_id"] != "i0"]
    assert len(set(capped[:7])) == 7


REQUIRES = {
    "i5": ["i4"], "i10": ["i3", "i4"], "i12": ["i13"], "i15": ["i19"], "i16": ["nowhere", "i0"]
}  # fmt: skip
"""The model does not know i19, and nobody can meet nowhere."""


@pytest.mark.parametrize(("k", "cap"), [(3, 0), (3, 1), (12, 0), (12, 1)])
@pytest.mark.parametrize("markets", [[], MARKETS])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_items_wait_for_what_they_require(
    features: Path, tmp_path: Path, markets: list[str], k: int, cap: int, exclude_seen: bool
) -> None:
    folder = tmp_path / "requiring"
    shutil.copytree(features, folder)
    path = folder / "items" / "part-0.snappy.parquet"
    requires = pa.array([REQUIRES.get(item) for item in ITEMS], pa.list_(pa.string()))
    pq.write_table(pq.read_table(path).append_column("requires", requires), path)
    settings = {"k": k, "max_per_category": cap, "exclude_seen": exclude_seen}
    if markets and k == 12:
        settings["k"] = k = 6  # at has nine items
    lists, _, task = _score(folder, tmp_path, markets, **settings)
    plain, _, _ = _score(features, tmp_path / "plain", markets, **settings)
    histories = {**HISTORIES, "new": [], "lost": ["i19"]}

    def waits(user: str, item: str) -> bool:
        return not {*REQUIRES.get(item, [])} <= {*histories[user]}

    assert any(waits(user, row["item_id"]) for user in plain for row in plain[user])
    assert not any(waits(user, row["item_id"]) for user in lists for row in lists[user])
    assert any(row["item_id"] in REQUIRES for rows in lists.values() for row in rows)
    for user in HISTORIES:
        if not any(waits(user, row["item_id"]) for row in plain[user]):
            assert [row["item_id"] for row in lists[user]] == [
                row["item_id"] for row in plain[user]
            ]
    (table,) = Path(task.output).glob("*.parquet")
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE rows AS SELECT * FROM '{table}'")
        change = "if(user_id = 'new' AND rank = 1, 'i12', item_id) AS item_id"
        database.execute(f"COPY (SELECT * REPLACE ({change}) FROM rows) TO '{table}'")
    sequences = folder / "sequences" / "part-0.snappy.parquet"
    counts = audit_file(str(table), str(sequences), _promise(folder, task, markets))
    assert counts["bad_prerequisite_users"] == 1


_FIRST = "user_id = 'u2' AND rank = 1"
_SPOILT = {
    "label_rows=3": "SELECT * REPLACE (if(user_id = 'u2', 'other', run_id) AS run_id) FROM rows",
    "label_rows=1": f"SELECT * REPLACE (if({_FIRST}, 'whim', reason) AS reason) FROM rows",
    "label_rows=1 ": f"SELECT * REPLACE (if({_FIRST}, NULL, ds) AS ds) FROM rows",
    "absent_users=1": "SELECT * FROM rows WHERE user_id != 'u2'",
    "absent_users=12": "SELECT * FROM rows LIMIT 0",
    "stranger_users=1": "SELECT * FROM rows UNION ALL SELECT * REPLACE ('x' AS user_id) FROM rows "
    "WHERE user_id = 'u2'",
    "rank_users=1": f"SELECT * FROM rows WHERE NOT ({_FIRST})",
    "rank_users=1 ": "SELECT * FROM rows WHERE NOT (user_id = 'u2' AND rank = 3)",
    "repeat_users=1": "SELECT * REPLACE (if(user_id = 'u2', 'i11', item_id) AS item_id) FROM rows",
    "score_users=1": f"SELECT * REPLACE (if({_FIRST}, 'nan', score)::float AS score) FROM rows",
    "score_users=1 ": f"SELECT * REPLACE (if({_FIRST}, -99, score)::float AS score) FROM rows",
    "score_users=1  ": f"SELECT * REPLACE (if({_FIRST}, 'inf', score)::float AS score) FROM rows",
    "seen_users=1": f"SELECT * REPLACE (if({_FIRST}, 'i2', item_id) AS item_id) FROM rows",
    "blocked_users=1": "SELECT * REPLACE (if(user_id = 'u3' AND rank = 1, 'i18', item_id) AS item_id) "
    "FROM rows",
    "unavailable_item_rows=1": f"SELECT * REPLACE (if({_FIRST}, '?', item_id) AS item_id) FROM rows",
    "why_rows=1": f"SELECT * REPLACE (if({_FIRST}, 'because', why) AS why) FROM rows",
    "reason_users=1": f"SELECT * REPLACE (if({_FIRST}, 'repeat', reason) AS reason) FROM rows",
    "reason_users=1 ": f"SELECT * REPLACE (if({_FIRST}, 'uncapped', reason) AS reason) FROM rows",
    "market_rows=1": "SELECT * REPLACE (if(user_id = 'u1' AND rank = 1, 'i18', item_id) AS item_id) "
    "FROM rows",
}


@pytest.mark.parametrize("fault", list(_SPOILT))
def test_the_audit_finds_each_fault_alone(features: Path, tmp_path: Path, fault: str) -> None:
    _, _, task = _score(features, tmp_path, MARKETS)
    file = next(Path(task.output).glob("*.parquet"))
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE rows AS SELECT * FROM '{file}'")
        database.execute(f"COPY (FROM ({_SPOILT[fault]}) ORDER BY hash(user_id, rank)) TO '{file}'")
    sequences = str(features / "sequences" / "part-0.snappy.parquet")
    counts = audit_file(str(file), sequences, _promise(features, task, MARKETS))
    found = [f"{name[4:]}={n}" for name, n in counts.items() if name.startswith("bad_") and n]
    assert found == [fault.strip()]


def test_the_audit_finds_full_categories(features: Path, tmp_path: Path) -> None:
    lists, _, task = _score(features, tmp_path, [])
    too_many = sum(
        max(
            Counter(int(row["item_id"][1:]) // 3 for row in rows if row["item_id"] != "i0").values()
        )
        > 1
        for rows in lists.values()
    )
    assert too_many > 0
    promise = replace(_promise(features, task, []), max_per_category=1)
    file = str(next(Path(task.output).glob("*.parquet")))
    sequences = str(features / "sequences" / "part-0.snappy.parquet")
    assert audit_file(file, sequences, promise)["bad_category_users"] == too_many


@pytest.mark.parametrize(("absent", "expected"), [("table", (12, 0, 0)), ("state", (0, 12, 36))])
def test_the_audit_finds_absent_and_foreign_files(
    features: Path, tmp_path: Path, absent: str, expected: tuple[int, int, int]
) -> None:
    _, _, task = _score(features, tmp_path, MARKETS)
    table: Callable[[], str] = lambda: str(next(Path(task.output).glob("*.parquet")))  # noqa: E731
    sequences = str(features / "sequences" / "part-0.snappy.parquet")
    counts = audit_file(
        None if absent == "table" else table(),
        None if absent == "state" else sequences,
        _promise(features, task, MARKETS),
    )
    found = counts["bad_absent_users"], counts["bad_stranger_users"], counts["n_rows"]
    assert found == expected
