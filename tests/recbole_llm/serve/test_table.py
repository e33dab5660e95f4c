"""The service beside a night: it says what the table says, and today what the next night will."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pyspark.sql import SparkSession

from recbole_llm.forget import forget
from recbole_llm.pseudonyms import KEYS_FILE, add_user_key, is_pseudonym
from recbole_llm.query import lookup
from recbole_llm.scoring.item_neighbors import (
    COLLABORATIVE,
    CONTENT,
    ItemNeighbors,
    write_neighbors,
)
from recbole_llm.serve.app import create_app
from recbole_llm.serve.guards import ApiKeys
from recbole_llm.serve.service import Service
from recbole_llm.serve.settings import ServeSettings
from recbole_llm.serve.snapshot import Source
from recbole_llm.warehouse import Warehouse
from tests.conftest import night_runner
from tests.data import write_events

pytestmark = [pytest.mark.spark, pytest.mark.slow]
ITEMS = [f"i{n}" for n in range(20)]
NOON = 1_714_564_800  # 2024-05-01T12:00:00Z
K = 8
RULES = {
    "k": K, "dislike_weight": 0.3, "category_damping": 0.1, "max_per_category": 2,
    "max_fallback_share": 1.0, "max_row_change": 9.0, "user_ids": "pseudonym",
    "carry_over": False,
}  # fmt: skip
SAID = {
    "u1": [("view", "i9"), ("like", "i11"), ("hide", "i12")],
    "u2": [("dislike", "i4"), ("not_interested_category", "i7"), ("hide", "i3")],
    "u3": [("hide", "i15"), ("undo", "i15"), ("do_not_use", "i4"), ("view", "i0")],
    "u4": [("view", "i19")],
    "late": [("view", "i2"), ("dislike", "i3")],
}
"""On the second day, a second apart."""
BEFORE = {"u2": [("hide", "i9"), ("dislike", "i3")], "u3": [("not_interested_category", "i7")]}
"""On the first."""


REQUIRES = {"i13": ["i9"], "i2": ["i16"], "i17": ["i0", "i19"], "i6": ["nowhere"]}
"""On the second day u1 has met i9, u3 i0 but not i19."""


def _rows(day: int, said: dict[str, list[tuple[str, str]]]) -> list[dict[str, object] | str]:
    return [
        {"user_id": user, "item_id": item, "event_type": says, "timestamp": NOON + 86_400 * day + n}
        for user, of_user in said.items()
        for n, (says, item) in enumerate(of_user)
    ]


def _list(answer: dict[str, Any]) -> list[tuple[str, float, str]]:
    return [(row["item_id"], row["score"], row["reason"]) for row in answer["recommendations"]]


@pytest.fixture
def nights(
    spark: SparkSession, small_warehouse: Path, small_night_config: Path,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> Any:  # fmt: skip
    monkeypatch.setenv(KEYS_FILE, str(tmp_path / "keys"))
    add_user_key(tmp_path / "keys")
    warehouse = Warehouse(small_warehouse)
    lines = [
        json.dumps(
            {"item_id": item, "title": f"The {item}", "category": f"c{n // 3}" if n else "",
             "requires": REQUIRES.get(item), "published_at": f"2024-04-{1 + n:02}"}
        )
        for n, item in enumerate(ITEMS)
    ]  # fmt: skip
    (warehouse.raw_items / "items.jsonl").write_text("\n".join(lines) + "\n")
    met = {f"u{n}": [("view", ITEMS[(n + step) % 20]) for step in range(4)] for n in range(5)}
    first = {user: [*of_user, *BEFORE.get(user, [])] for user, of_user in met.items()}
    write_events(warehouse.raw_events, "2024-05-01", _rows(0, first))
    return night_runner(spark, small_warehouse, small_night_config)


@pytest.fixture
def client(nights: Any, small_warehouse: Path) -> Iterator[TestClient]:
    warehouse = nights("2024-05-01", **RULES)
    service = Service(Source(warehouse, None), ServeSettings(refresh_s=0.02), warehouse)
    with TestClient(create_app(service, ApiKeys([]))) as client:
        yield client


def test_ages_and_what_is_required(nights: Any) -> None:
    """The service counts ages up to the table's day; an event opens what required it."""
    warehouse = nights("2024-05-01", **RULES, freshness_half_life_days=2.5)
    service = Service(Source(warehouse, None), ServeSettings(), warehouse)
    with TestClient(create_app(service, ApiKeys([]))) as client:
        for user in client.get("/users").json():
            table = _list(client.get(f"/recommendations/{user}", params={"k": K}).json())
            now = _list(client.post("/recommend", json={"user_id": user, "k": K}).json())
            assert [row[::2] for row in now] == [row[::2] for row in table]
            assert [row[1] for row in now] == pytest.approx([row[1] for row in table], abs=1e-5)
        ages = {"i18": 12, "i12": 18, "i15": 15}  # days before 2024-05-01
        scorer = service.snapshot.ranker.scorer
        items = np.array([[scorer.row(item) for item in ages]])
        plain = scorer.score(np.array([scorer.row("i1")]), np.array([1]), items)[0]
        expected = [
            score - np.log(2) * age / 2.5 for score, age in zip(plain, ages.values(), strict=True)
        ]
        body = {"history": ["i1"], "k": 16}
        scores = {
            item: score for item, score, _ in _list(client.post("/recommend", json=body).json())
        }
        assert [scores[item] for item in ages] == pytest.approx(expected, abs=1e-4)
        assert not {"i13", "i17"} & scores.keys()
        more = {**body, "events": [{"item_id": "i9"}]}
        assert "i13" in {item for item, *_ in _list(client.post("/recommend", json=more).json())}


def test_the_service_and_the_nights(client: TestClient, nights: Any, small_warehouse: Path) -> None:
    warehouse = Warehouse(small_warehouse)
    users = client.get("/users").json()
    assert len(users) == 5
    assert all(is_pseudonym(user) for user in users)
    for user in ["u0", "u2", *users]:
        table = client.get(f"/recommendations/{user}", params={"k": K}).json()
        now = client.post("/recommend", json={"user_id": user, "k": K}).json()
        assert [row[::2] for row in _list(now)] == [row[::2] for row in _list(table)]
        assert [row[1] for row in _list(now)] == pytest.approx(
            [row[1] for row in _list(table)], abs=1e-5
        )
        assert table["ds"] == now["ds"] == "2024-05-01"
        assert all(row["title"] == f"The {row['item_id']}" for row in table["recommendations"])
    assert client.get("/recommendations/nobody").status_code == 404
    assert client.post("/recommend", json={"user_id": "nobody"}).status_code == 404

    foretold = {}
    for user, said in SAID.items():
        events = [{"item_id": item, "event_type": says} for says, item in said]
        who = {"history": []} if user == "late" else {"user_id": user}
        body = {**who, "events": events, "k": K}
        foretold[user] = _list(client.post("/recommend", json=body).json())
    write_events(warehouse.raw_events, "2024-05-02", _rows(1, SAID))
    nights("2024-05-02", **RULES)
    for user, expected in foretold.items():
        rows = lookup(warehouse, user, "2024-05-02", k=K).recommendations
        assert [(row["item_id"], row["reason"]) for row in rows] == [row[::2] for row in expected]
        model = [row for row in rows if row["reason"] == "model"]
        assert len(model) >= 4
        assert [row["score"] for row in model] == pytest.approx(
            [score for _, score, _ in expected[: len(model)]], abs=1e-5
        )
    while client.get("/health").json()["ds"] != "2024-05-02":
        pass
    answer = client.post("/recommend", json={"user_id": "late", "k": K}).json()
    assert [row[::2] for row in _list(answer)] == [row[::2] for row in foretold["late"]]
    told = client.post(
        "/recommend", json={"user_id": "u3", "k": K, "with_history": True}
    ).json()["history"]  # fmt: skip
    assert [item["item_id"] for item in told] == ["i0", "i6", "i5", "i3"]
    forget(warehouse, "u3", [])
    while client.post("/recommend", json={"user_id": "u3"}).status_code != 404:
        pass
    assert client.post("/recommend", json={"user_id": "u2"}).status_code == 200


def test_blended_lists_are_the_same_in_table_and_service(
    nights: Any, small_warehouse: Path
) -> None:
    """Two days, so that a list that stood would show; all sources, and others for newcomers."""
    artifact = Warehouse(small_warehouse).champion_artifact()
    rows = np.arange(20)
    near = {
        CONTENT: ItemNeighbors(np.stack([(rows + 1) % 20, (rows + 7) % 20], 1), np.ones((20, 2))),
        COLLABORATIVE: ItemNeighbors(((rows + 2) % 20)[:, None], np.ones((20, 1))),
    }
    write_neighbors(near, artifact.name, artifact)
    strategy = {
        "sources": {"model": 1, "content": 1, "collaborative": 1}, "fusion": "score",
        "short_histories": [{"below": 3, "sources": {"recent": 2, "popular": 1}}],
        "recent_days": 1,
    }  # fmt: skip
    rules = {**RULES, "carry_over": True, "strategy": strategy}
    nights("2024-05-01", **rules)
    today = {"u1": [("view", "i9")], "new": [("view", "i18"), ("view", "i17")]}
    write_events(Warehouse(small_warehouse).raw_events, "2024-05-02", _rows(1, today))
    warehouse = nights("2024-05-02", **rules)
    service = Service(Source(warehouse, None), ServeSettings(), warehouse)
    with TestClient(create_app(service, ApiKeys([]))) as client:
        tables = {}
        for user in ("u0", "u1", "u2", "new"):
            table = client.get(f"/recommendations/{user}", params={"k": K}).json()
            now = client.post("/recommend", json={"user_id": user, "k": K}).json()
            assert [row[::2] for row in _list(now)] == [row[::2] for row in _list(table)]
            tables[user] = _list(table)
    assert {reason for _, _, reason in tables["u0"]} >= {"content", "collaborative"}
    # Of the day only i9, i17 and i18 are recent, and newcomers met two of these.
    assert tables["new"][0][::2] == ("i9", "recent")
    assert {reason for _, _, reason in tables["new"][1:]} == {"popular"}
    assert warehouse.scored_manifest("2024-05-02")["n_carried_users"] == 0
