"""What is deleted of a day and what stays."""

from pathlib import Path
from typing import Any

import pytest

from recbole_llm.locks import one_job_on
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.attempts import prune_features, prune_runs, prune_states
from tests.data import MANIFEST, RUN

DAY, LATER = "2024-05-01", "2024-05-31"


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A day with attempts: named by manifests (m), by the pointer now and before (p, b), dead ones."""
    warehouse = Warehouse(tmp_path)
    for name in ("m", "p", "b", "dead", "half"):
        (warehouse.features(DAY) / name / "sequences").mkdir(parents=True)
        (warehouse.features(DAY) / name / "quarantine").mkdir()
    replace_json(warehouse.features(DAY) / "manifest.json", {**MANIFEST, "ds": DAY, "attempt": "m"})

    def run(name: str, features: str) -> dict[str, Any]:
        path = warehouse.runs(DAY) / f"run_id={name}" / name
        path.mkdir(parents=True)
        (path / "0.parquet").touch()
        features_path = f"features/ds={DAY}/{features}"
        return {
            **RUN,
            "ds": DAY,
            "path": str(path.relative_to(tmp_path)),
            "features_path": features_path,
        }

    run("dead", "dead")
    replace_json(warehouse.runs(DAY) / "scored.json", run("s", "p"))
    days = {DAY: {**run("p", "p"), "before": [run("b", "b")]}}
    replace_json(warehouse.published, {"format_version": 1, "days": days})
    return warehouse


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_what_is_named_stays(warehouse: Warehouse) -> None:
    prune_features(warehouse, DAY)
    assert _folders(warehouse.features(DAY)) == ["b", "m", "p"]
    prune_runs(warehouse, DAY)
    assert _folders(warehouse.runs(DAY)) == ["run_id=b", "run_id=p", "run_id=s"]
    prune_features(warehouse, LATER)  # a day without anything
    prune_runs(warehouse, LATER)


def test_old_states_go_and_the_rest_of_one_that_was_half_deleted(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    (warehouse.features(DAY) / "m" / "sequences" / "0.parquet").touch()
    prune_states(warehouse, LATER, 30)  # as old as may be
    assert _folders(warehouse.features(DAY) / "m") == ["quarantine", "sequences"]

    def killed(folder: Path, **_: Any) -> None:
        if folder.is_dir():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recbole_llm.removal.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune_states(warehouse, LATER, 29)
    left = list(warehouse.features(DAY).glob("*/.sequences"))
    assert len(left) == 1  # nobody reads it
    assert not (left[0].parent / "sequences").exists()
    prune_states(warehouse, LATER, 29)
    assert _folders(warehouse.features(DAY) / "m") == ["quarantine"]


def test_what_a_night_that_never_finished_wrote_goes_too(warehouse: Warehouse) -> None:
    (warehouse.features("2024-04-30") / "dead" / "sequences").mkdir(parents=True)
    prune_states(warehouse, LATER, 31)  # as old as may be
    assert _folders(warehouse.features("2024-04-30")) == ["dead"]
    with one_job_on(warehouse, "2024-04-30"):
        prune_states(warehouse, LATER, 30)
    assert _folders(warehouse.features("2024-04-30")) == ["dead"]
    prune_states(warehouse, LATER, 30)
    assert _folders(warehouse.features("2024-04-30")) == []
    assert _folders(warehouse.features(DAY)) == ["b", "dead", "half", "m", "p"]
