"""Which models stay in a warehouse."""

from pathlib import Path

import pytest

from recbole_llm.errors import ArtifactError
from recbole_llm.kept_models import prune_decided
from recbole_llm.published import publish_run
from recbole_llm.warehouse import Warehouse, replace_json
from tests.data import RUN


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Champions c0 to c9, one a week, between them challengers r0 to r9, and a model made by hand."""
    warehouse = Warehouse(tmp_path)
    (warehouse.artifacts / "by-hand").mkdir(parents=True)
    for week in range(10):
        for version, verdict, hour in (("r", "refused", 1), ("c", "promoted", 2)):
            _decide(warehouse, f"{version}{week}", verdict, f"2024-05-0{week}T0{hour}")
    replace_json(warehouse.champion, {"model_version": "c9"})
    return warehouse


def _decide(warehouse: Warehouse, version: str, verdict: str, at: str) -> None:
    (warehouse.artifacts / version).mkdir(exist_ok=True)
    replace_json(
        warehouse.decisions / f"{at[:10]}-{version}.json",
        {"model_version": version, "verdict": verdict, "decided_at": at},
    )


def _left(warehouse: Warehouse) -> list[str]:
    names = sorted(path.name for path in warehouse.artifacts.iterdir() if path.is_dir())
    return [name for name in names if name != "decisions"]


def test_the_newest_of_each_stay(warehouse: Warehouse) -> None:
    prune_decided(warehouse, keep_refused=2, keep_superseded=1)
    assert _left(warehouse) == ["by-hand", "c8", "c9", "r8", "r9"]
    prune_decided(warehouse, keep_refused=0, keep_superseded=0)
    assert _left(warehouse) == ["by-hand", "c9"]
    prune_decided(warehouse, keep_refused=0, keep_superseded=0)
    assert len([*warehouse.decisions.iterdir()]) == 20  # rows of the table trainings


def test_what_the_newest_tables_need_stays(warehouse: Warehouse) -> None:
    """Of eight days the first is no longer told of, and the last was another table before."""
    versions = ["c0", "c1", "c1", "c2", "c2", "c3", "c3", "c5"]
    for n, version in enumerate(versions):
        ds = f"2024-05-0{n + 1}"
        for run in ["c4", version] if n == 7 else [version]:
            entry = {"ds": ds, "run_id": f"{ds}{run}", "path": f"runs/{ds}{run}"}
            publish_run(warehouse, {**RUN, **entry, "model_version": run}, keep_runs=1)
    prune_decided(warehouse, keep_refused=0, keep_superseded=1)
    assert _left(warehouse) == ["by-hand", "c1", "c2", "c3", "c4", "c5", "c8", "c9"]


def test_the_newest_verdict_holds(warehouse: Warehouse) -> None:
    _decide(warehouse, "c1", "refused", "2024-06-01T00")
    _decide(warehouse, "r1", "promoted", "2024-06-02T00")
    prune_decided(warehouse, keep_refused=1, keep_superseded=1)
    assert _left(warehouse) == ["by-hand", "c1", "c9", "r1"]


def test_a_damaged_decision_is_told(warehouse: Warehouse) -> None:
    replace_json(warehouse.decisions / "2024-05-01-x.json", {"model_version": "x"})
    with pytest.raises(ArtifactError, match="2024-05-01-x.json"):
        prune_decided(warehouse, keep_refused=1, keep_superseded=1)
    assert len(_left(warehouse)) == 21
