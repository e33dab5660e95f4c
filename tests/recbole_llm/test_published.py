"""The pointer moves forth and back, and never to what is not there."""

import json
import shutil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.cli import main as cli
from recbole_llm.errors import NotFoundError
from recbole_llm.published import publish_run, roll_back
from recbole_llm.warehouse import Warehouse

DAY, NEXT = "2024-05-01", "2024-05-02"


def _publish(warehouse: Warehouse, day: str, number: int, keep_runs: int = 2) -> list[str]:
    path = f"runs/ds={day}/run_id={number}/a"
    (warehouse.root / path).mkdir(parents=True, exist_ok=True)
    run = {"ds": day, "run_id": f"{day}-{number}", "path": path}
    warehouse.log_run(run["run_id"], {"status": "published", "ds": day})
    return publish_run(warehouse, run, keep_runs)


def _run_ids(warehouse: Warehouse) -> dict[str, str]:
    return {day: run["run_id"] for day, run in warehouse.published_days().items()}


def _status(warehouse: Warehouse, run_id: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((warehouse.run_log / f"{run_id}.json").read_text())
    return row


def test_back_and_forth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse = Warehouse(tmp_path)
    _publish(warehouse, DAY, 0)
    for number in range(4):
        named = _publish(warehouse, NEXT, number)
    assert [path[-3] for path in named] == ["3", "2", "1"]
    other = warehouse.published_run(DAY)
    for number in (2, 1):
        now = roll_back(warehouse, NEXT)
        assert now is not None
        assert _run_ids(warehouse) == {DAY: f"{DAY}-0", NEXT: f"{NEXT}-{number}"}
        assert now["run_id"] == f"{NEXT}-{number}"
        assert _status(warehouse, f"{NEXT}-{number + 1}")["status"] == "rolled back"
        assert _status(warehouse, now["run_id"]) == {"status": "published", "ds": NEXT}
    assert warehouse.published_run(DAY) == other
    assert cli(["rollback", "--warehouse", str(tmp_path), "--day", NEXT]) == 0
    told = f"{NEXT}: withdrawn, was run {NEXT}-1; latest day: {DAY}\n"
    assert capsys.readouterr().out == told
    assert _run_ids(warehouse) == {DAY: f"{DAY}-0"}
    _publish(warehouse, NEXT, 9)
    assert warehouse.published_run(None)["run_id"] == f"{NEXT}-9"


def test_no_way_back(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    with pytest.raises(NotFoundError, match="nothing is published"):
        roll_back(warehouse, DAY)
    _publish(warehouse, DAY, 1)
    with pytest.raises(NotFoundError, match="the only day with a table"):
        roll_back(warehouse, DAY)
    with pytest.raises(NotFoundError, match=f"no table for {NEXT}"):
        roll_back(warehouse, NEXT)
    _publish(warehouse, DAY, 2)
    shutil.rmtree(warehouse.root / f"runs/ds={DAY}/run_id=1")
    with pytest.raises(NotFoundError, match=f"run {DAY}-1 that was the table .* is gone"):
        roll_back(warehouse, DAY)
    assert _run_ids(warehouse) == {DAY: f"{DAY}-2"}
    _publish(warehouse, DAY, 3, keep_runs=0)
    assert warehouse.published_run(DAY)["before"] == []


def test_the_same_run_published_again_is_not_the_one_before(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for number in (1, 2, 2, 2):
        _publish(warehouse, DAY, number)
    table = warehouse.published_run(DAY)
    assert [table["run_id"], *(run["run_id"] for run in table["before"])] == [
        f"{DAY}-2",
        f"{DAY}-1",
    ]


def _publish_many(root: Path, month: int) -> None:
    for day in range(1, 21):
        _publish(Warehouse(root), f"2024-{month:02}-{day:02}", 0)


def test_two_that_publish_at_once_lose_nothing(tmp_path: Path) -> None:
    context = get_context("spawn")
    workers = [context.Process(target=_publish_many, args=(tmp_path, month)) for month in (5, 6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(Warehouse(tmp_path).published_days()) == 40
