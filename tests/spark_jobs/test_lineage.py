"""Which earlier state a night builds on, when something behind it has changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import DataError
from recbole_llm.raw_files import raw_digests
from recbole_llm.retention import KINDS, expire
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.config import NightConfig, load_night_config
from spark_jobs.lineage import find_base, state_settings
from spark_jobs.raw_events import event_files
from tests.conftest import HOME
from tests.data import write_events

DAYS = [f"2024-05-0{n}" for n in range(1, 6)]
CONFIG = load_night_config(HOME / "configs" / "nightly.yaml")


def _prepare(
    warehouse: Warehouse,
    day: str,
    config: NightConfig,
    fingerprint: str = "",
    user_keys: tuple[str, ...] = (),
) -> None:
    """A manifest as the job leaves it, and a table."""
    base = find_base(warehouse, day, config, list(user_keys))
    since = base["ds"] if base else None
    path = warehouse.features(day) / "a"
    (path / "sequences").mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {
        "ds": day,
        "attempt": path.name,
        "path": str(path.relative_to(warehouse.root)),
        "first_ds": base["first_ds"] if base else DAYS[0],
        "base": {"ds": since, "fingerprint": base["fingerprint"]} if base else None,
        "settings": json.loads(json.dumps(state_settings(config))),
        "user_keys": list(user_keys),
        "sources": raw_digests(warehouse, since, day),
        "fingerprint": fingerprint or day,
    }
    replace_json(warehouse.features(day) / "manifest.json", manifest)


def test_what_retention_keeps_is_what_the_next_night_needs(warehouse: Warehouse) -> None:
    retention = dict.fromkeys(KINDS, 0) | {"raw": 1}
    late = warehouse.raw_events / f"ds={DAYS[1]}" / "late.jsonl"
    late.write_text("{}\n")
    assert expire(warehouse, retention, DAYS[4]).raw == DAYS[:1]
    base = find_base(warehouse, DAYS[4], CONFIG, [])
    assert base is not None
    assert base["ds"] == DAYS[0]
    late.unlink()
    expire(warehouse, retention, DAYS[4])
    write_events(warehouse.raw_events, DAYS[1], ['{"again": 1}'])
    expire(warehouse, retention, DAYS[4])
    base = find_base(warehouse, DAYS[4], CONFIG, [])
    assert base is not None
    assert base["ds"] == DAYS[3]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Five delivered days, four prepared."""
    warehouse = Warehouse(tmp_path)
    for day in DAYS:
        write_events(warehouse.raw_events, day, ["{}"])
    for day in DAYS[:4]:
        _prepare(warehouse, day, CONFIG)
    return warehouse


def _base(warehouse: Warehouse, day: str = DAYS[4], config: NightConfig = CONFIG) -> str | None:
    base = find_base(warehouse, day, config, [])
    return base["ds"] if base else None


def test_yesterdays_state_is_the_base(warehouse: Warehouse) -> None:
    assert [_base(warehouse, day) for day in DAYS] == [None, *DAYS[:4]]
    shutil.rmtree(warehouse.features(DAYS[3]))
    assert _base(warehouse) == DAYS[2]


def test_a_changed_or_added_file_outdates_its_day_and_those_upon_it(warehouse: Warehouse) -> None:
    folder = warehouse.raw_events / f"ds={DAYS[2]}"
    (folder / "late.jsonl").write_text("{}\n")
    assert _base(warehouse) == DAYS[1]
    _prepare(warehouse, DAYS[2], CONFIG, "another outcome")
    assert _base(warehouse) == DAYS[2]
    _prepare(warehouse, DAYS[3], CONFIG)
    assert _base(warehouse) == DAYS[3]
    write_events(warehouse.raw_events, DAYS[0], ["{}", "{}"])
    assert _base(warehouse) is None


def test_a_state_made_anew_with_the_same_outcome_outdates_nothing(warehouse: Warehouse) -> None:
    _prepare(warehouse, DAYS[2], CONFIG)
    assert _base(warehouse) == DAYS[3]


def test_a_day_delivered_into_a_gap_outdates_what_jumped_it(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for day in (DAYS[0], DAYS[2], DAYS[3]):
        write_events(warehouse.raw_events, day, ["{}"])
    _prepare(warehouse, DAYS[0], CONFIG)
    _prepare(warehouse, DAYS[2], CONFIG)
    assert _base(warehouse, DAYS[3]) == DAYS[2]
    write_events(warehouse.raw_events, DAYS[1], ["{}"])
    assert _base(warehouse, DAYS[3]) == DAYS[0]


def test_raw_days_past_their_retention_outdate_nothing(warehouse: Warehouse) -> None:
    shutil.rmtree(warehouse.raw_events / f"ds={DAYS[0]}")
    shutil.rmtree(warehouse.features(DAYS[0]))
    assert _base(warehouse) == DAYS[3]
    for day in DAYS[1:4]:
        shutil.rmtree(warehouse.features(day) / "a" / "sequences")
    with pytest.raises(DataError, match=f"raw events since {DAYS[0]} .* are gone; restore them"):
        _base(warehouse)


def test_other_settings_make_the_state_anew(warehouse: Warehouse) -> None:
    assert _base(warehouse, config=replace(CONFIG, max_late_days=7)) is None
    assert _base(warehouse, config=replace(CONFIG, k=7)) == DAYS[3]


def test_a_state_with_fewer_keys_can_be_brought_up_to_date(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for day in DAYS[:3]:
        write_events(warehouse.raw_events, day, ["{}"])
    _prepare(warehouse, DAYS[0], CONFIG, user_keys=("a",))
    _prepare(warehouse, DAYS[1], CONFIG, user_keys=("a", "b"))

    def found(*user_keys: str) -> str | None:
        base = find_base(warehouse, DAYS[2], CONFIG, list(user_keys))
        return base["ds"] if base else None

    assert found("a", "b") == found("a", "b", "c") == DAYS[1]
    assert found("a") == DAYS[0]
    assert found("a", "c") == DAYS[0]
    assert found() is None
    assert found("b", "a") is None


def test_raw_days_that_only_unsound_states_have_read_must_be_there(warehouse: Warehouse) -> None:
    path = warehouse.features(DAYS[2]) / "manifest.json"
    replace_json(path, {**warehouse.features_manifest(DAYS[2]), "fingerprint": "another"})
    assert _base(warehouse) == DAYS[2]
    replace_json(path, {**warehouse.features_manifest(DAYS[2]), "settings": {}})
    assert _base(warehouse) == DAYS[1]
    shutil.rmtree(warehouse.raw_events / f"ds={DAYS[2]}")
    with pytest.raises(
        DataError, match=f"that of {DAYS[1]} .* are gone, of {DAYS[2]} to {DAYS[2]}"
    ):
        _base(warehouse)


def test_a_folder_that_is_called_no_day_is_none(warehouse: Warehouse) -> None:
    for name in ("2024-05-05.tmp", "2024-5-6", "__HIVE_DEFAULT_PARTITION__"):
        write_events(warehouse.raw_events, name, ["{}"])
    assert warehouse.raw_day(None) == DAYS[4]
    assert list(event_files(warehouse.raw_events, DAYS[3], DAYS[4])) == DAYS[4:]
