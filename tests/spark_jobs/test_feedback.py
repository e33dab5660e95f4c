"""One user over five nights: what they say is in the next table, and what they take back is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from recbole_llm.query import lookup
from recbole_llm.scoring import load_scorer
from recbole_llm.warehouse import Warehouse
from tests.conftest import night_runner
from tests.data import write_events

pytestmark = pytest.mark.spark
ITEMS = [f"i{n}" for n in range(20)]
"""In threes of a category; i0 has none."""
NOON = 1_714_564_800  # 2024-05-01T12:00:00Z
DAYS = [f"2024-05-0{n}" for n in range(1, 6)]
MET = ["i1", "i2", "i3", "i4", "i5"]


def _category(item: str) -> str:
    return "" if item == "i0" else f"c{int(item[1:]) // 3}"


@pytest.fixture
def nights(spark: SparkSession, small_warehouse: Path, small_night_config: Path) -> Any:
    """Delivers what the user says on a day and gives their whole list of that night, by odds."""
    run = night_runner(spark, small_warehouse, small_night_config)
    warehouse = Warehouse(small_warehouse)
    lines = [json.dumps({"item_id": item, "category": _category(item)}) for item in ITEMS]
    (warehouse.raw_items / "items.jsonl").write_text("\n".join(lines) + "\n")

    def night(number: int, *said: tuple[str, str]) -> dict[str, float]:
        at = NOON + 86_400 * number
        rows: list[dict[str, object] | str] = [
            {"user_id": "u", "item_id": item, "timestamp": at + second, "event_type": says}
            for second, (says, item) in enumerate(said)
        ]
        write_events(warehouse.raw_events, DAYS[number], rows)
        run(DAYS[number], k=12, max_fallback_share=1.0, dislike_weight=0.3, category_damping=0.1)
        found = lookup(warehouse, "u", DAYS[number], k=12)
        return {row["item_id"]: row["score"] for row in found.recommendations}

    night.warehouse = warehouse  # type: ignore[attr-defined]
    return night


def test_a_user_over_five_nights(nights: Any) -> None:
    scorer = load_scorer(nights.warehouse.champion_artifact())

    def expected(history: list[str]) -> dict[str, float]:
        best = scorer.top_k([history], 12, False, set(ITEMS) - {*MET})
        return dict(zip(best.item_ids[0], best.scores[0].tolist(), strict=True))

    first = nights(0, *(("view", item) for item in MET))
    plain = expected(MET)
    assert first == pytest.approx(plain, abs=1e-4)
    hidden, disliked = list(plain)[:2]

    second = nights(1, ("hide", hidden), ("dislike", disliked))
    assert {hidden, disliked} & set(second) == set()
    apart = {item: second[item] - plain[item] for item in second if item in plain}
    alike = scorer.artifact.item_matrix - scorer.artifact.item_matrix[1:].mean(0)
    direction = alike[scorer.row(disliked)]
    nearest = max(apart, key=lambda item: float(alike[scorer.row(item)] @ direction))
    farthest = min(apart, key=lambda item: float(alike[scorer.row(item)] @ direction))
    assert apart[nearest] < 0 < apart[farthest]

    third = nights(2, ("undo", hidden), ("like", disliked), ("not_interested_category", "i9"))
    # Liked, it is met: no longer in the list, and read. So is what was hidden again.
    liked = expected([*MET, disliked])
    assert disliked not in third
    assert hidden in third
    damped = {
        item: score + (-2.302585 if _category(item) == "c3" else 0) for item, score in liked.items()
    }
    shared = third.keys() & damped.keys()
    assert {item for item in shared if _category(item) == "c3"}
    assert {item: third[item] for item in shared} == pytest.approx(
        {item: damped[item] for item in shared}, abs=1e-4
    )

    fourth = nights(3, ("undo", "i9"), ("do_not_use", "i5"), ("do_not_use", disliked))
    read = expected(MET[:-1])
    assert not {"i5", disliked} & set(fourth)  # they count as met
    shared = fourth.keys() & read.keys()
    assert len(shared) >= 11
    assert {item: fourth[item] for item in shared} == pytest.approx(
        {item: read[item] for item in shared}, abs=1e-4
    )

    fifth = nights(4, ("undo", "i5"), ("undo", disliked), ("undo", "i13"))
    shared = fifth.keys() & liked.keys()
    assert {item: fifth[item] for item in shared} == pytest.approx(
        {item: liked[item] for item in shared}, abs=1e-4
    )
    manifests = nights.warehouse.features_manifests().values()
    assert [manifest["quarantined_rows"] for manifest in manifests] == [0] * 5
