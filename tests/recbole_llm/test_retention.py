import json
from itertools import pairwise
from pathlib import Path

import pytest

from recbole_llm.cli import main
from recbole_llm.config_files import config_path, load_yaml
from recbole_llm.errors import ConfigError, UnavailableError
from recbole_llm.locks import one_job_on
from recbole_llm.published import publish_run
from recbole_llm.raw_files import raw_digests
from recbole_llm.retention import KINDS, check_retention, expire
from recbole_llm.warehouse import Warehouse, delivered_days, replace_json
from tests.data import MANIFEST

DAYS = [f"2024-05-0{n}" for n in range(1, 10)]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Nine days of everything."""
    warehouse = Warehouse(tmp_path / "w")
    for before, day in pairwise([None, *DAYS]):
        paths = [
            warehouse.raw_events / f"ds={day}" / "e.jsonl",
            warehouse.features(day) / "a" / "quarantine" / "0.parquet",
            warehouse.features(day) / "a" / "sequences" / "0.parquet",
            warehouse.runs(day) / f"run_id=r{day}" / "x" / "0.parquet",
            warehouse.report(day),
        ]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(day)
        replace_json(warehouse.metrics / f"{day}.json", {"ds": day})
        manifest = {**MANIFEST, "ds": day, "sources": raw_digests(warehouse, before, day)}
        replace_json(warehouse.features(day) / "manifest.json", manifest)
        run = {"ds": day, "run_id": f"r{day}", "path": f"runs/ds={day}/run_id=r{day}/x"}
        warehouse.log_run(run["run_id"], {"status": "published"})
        publish_run(warehouse, run, keep_runs=1)
    return warehouse


def _left(warehouse: Warehouse, pattern: str) -> list[str]:
    return sorted({path.read_text() for path in warehouse.root.glob(pattern)})


def test_each_kind_goes_after_its_days(warehouse: Warehouse) -> None:
    days = {"raw": 5, "quarantine": 3, "tables": 2, "metrics": 0}
    expired = expire(warehouse, days, "2024-05-09")
    assert expired.raw == DAYS[:3]
    assert expired.quarantine == DAYS[:5]
    assert expired.tables == DAYS[:6]
    assert expired.metrics == []
    assert _left(warehouse, "raw/events/*/*") == DAYS[3:]
    assert _left(warehouse, "features/*/*/quarantine/*") == DAYS[5:]
    assert _left(warehouse, "features/*/*/sequences/*") == DAYS  # by keep_days
    assert _left(warehouse, "runs/*/*/*/*.parquet") == DAYS[6:]
    assert _left(warehouse, "reports/ds=*/*") == DAYS
    assert list(warehouse.published_days()) == DAYS[6:]
    assert warehouse.logged_run(f"r{DAYS[0]}")["status"] == "expired"
    assert warehouse.logged_run(f"r{DAYS[8]}")["status"] == "published"
    again = expire(warehouse, days, "2024-05-09")
    assert (again.raw, again.quarantine, again.tables) == ([], [], [])


def test_the_newest_table_stays_whatever_its_age(warehouse: Warehouse) -> None:
    expired = expire(warehouse, dict.fromkeys(KINDS, 1), "2025-01-01")
    assert expired.tables == DAYS[:8]
    assert expired.metrics == DAYS
    assert list(warehouse.published_days()) == DAYS[8:]
    assert _left(warehouse, "runs/*/*/*/*.parquet") == DAYS[8:]
    assert _left(warehouse, "reports/ds=*/*") == []


def test_the_command_takes_the_settings(warehouse: Warehouse, tmp_path: Path) -> None:
    config = tmp_path / "night.yaml"
    retention = dict.fromkeys(KINDS, 0)
    config.write_text(json.dumps({"retention": {**retention, "raw": 2}}))
    where = ["--warehouse", str(warehouse.root), "--config", str(config)]
    assert main(["expire", *where, "--day", "2024-05-05"]) == 0
    assert _left(warehouse, "raw/events/*/*") == DAYS[2:]
    config.write_text(json.dumps({"retention": {**retention, "raw": -1}}))
    assert main(["expire", *where]) == 2
    assert check_retention(load_yaml(config_path(".", "nightly"))["retention"]) == retention


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "retention must hold exactly .'raw', .*, got None"),
        ({"raw": 1}, "got .'raw'."),
        ({**dict.fromkeys(KINDS, 0), "raw": True}, "retention.raw must be a number of days"),
        ({**dict.fromkeys(KINDS, 0), "raw": "week"}, "or 0 for good, got 'week'"),
    ],
)
def test_settings_that_say_nothing(settings: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_retention(settings)


def test_raw_events_that_no_night_has_read_stay(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    for day in DAYS[2:]:
        (warehouse.features(day) / "manifest.json").unlink()
    days = dict.fromkeys(KINDS, 0) | {"raw": 1}
    assert expire(warehouse, days, DAYS[8]).raw == DAYS[:2]
    assert _left(warehouse, "raw/events/*/*") == DAYS[2:]
    assert f"ds={DAYS[2]} is past its days and stays, with those after it: no night" in caplog.text


def test_days_from_one_that_came_late_on_stay(warehouse: Warehouse) -> None:
    """A night that reads it reads those after it anew."""
    (warehouse.raw_events / f"ds={DAYS[3]}" / "more.jsonl").write_text(DAYS[3])
    days = dict.fromkeys(KINDS, 0) | {"raw": 1}
    assert expire(warehouse, days, DAYS[8]).raw == DAYS[:3]
    assert _left(warehouse, "raw/events/*/*") == DAYS[3:]


def test_what_no_night_could_read_any_more_goes(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    days = dict.fromkeys(KINDS, 0) | {"raw": 3}
    assert expire(warehouse, days, DAYS[8]).raw == DAYS[:5]
    again = warehouse.raw_events / f"ds={DAYS[1]}" / "e.jsonl"
    again.parent.mkdir()
    again.write_text("again")
    assert expire(warehouse, days, DAYS[8]).raw == [DAYS[1]]
    assert "goes without a night's having read it as it is" in caplog.text


def test_a_day_that_cannot_be_deleted_is_an_error(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, target: Path) -> Path:
        raise PermissionError(1, "not permitted", str(self))

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        expire(warehouse, dict.fromkeys(KINDS, 0) | {"raw": 7}, DAYS[8])


def test_a_raw_day_that_is_half_deleted_is_none(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = dict.fromkeys(KINDS, 0) | {"raw": 7}

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recbole_llm.removal.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            expire(warehouse, days, DAYS[8])
    assert delivered_days(warehouse.raw_events) == DAYS[1:]
    expire(warehouse, days, DAYS[8])
    assert sorted(path.name[3:] for path in warehouse.raw_events.iterdir()) == DAYS[1:]


def test_nothing_is_deleted_under_a_job(warehouse: Warehouse, tmp_path: Path) -> None:
    config = tmp_path / "night.yaml"
    config.write_text(json.dumps({"retention": dict.fromkeys(KINDS, 1)}))
    where = ["--warehouse", str(warehouse.root), "--config", str(config)]
    with one_job_on(warehouse, DAYS[0]):
        assert main(["expire", *where, "--day", DAYS[8]]) == UnavailableError.exit_code
    assert _left(warehouse, "raw/events/*/*") == DAYS
