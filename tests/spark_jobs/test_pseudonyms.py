"""Nights whose users are pseudonyms, and a key that is rotated between two of them."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyspark.sql import SparkSession

from recbole_llm.errors import ConfigError
from recbole_llm.pseudonyms import KEYS_FILE, UserKeys, is_pseudonym
from recbole_llm.query import lookup
from recbole_llm.warehouse import Warehouse
from spark_jobs.measure_night import measure
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.conftest import night_runner
from tests.data import files_with

pytestmark = pytest.mark.spark
DAYS = ["2024-05-01", "2024-05-02", "2024-05-03"]
OLD, NEW = bytes(range(32)), bytes(range(32, 64))
NAME = "jane-doe"


@pytest.fixture
def run(spark: SparkSession, small_warehouse: Path, small_night_config: Path) -> Any:
    events = Warehouse(small_warehouse).raw_events
    for path in events.glob("*/events.jsonl"):
        path.write_text(path.read_text().replace('"u1"', f'"{NAME}"'))
    day = events / "ds=2024-05-02" / "broken.jsonl"
    day.write_text(f'{{"user_id": "{NAME}", "item_id": \n')
    with (events / "ds=2024-05-02" / "odd.jsonl").open("w") as file:
        file.write(f'{{"user_id": "{NAME}", "item_id": "i1", "timestamp": "soon"}}\n')
        file.write(f'{{"user_id": "{NAME}\\"", "item_id": "i1", "timestamp": 1714651200}}\n')
    return night_runner(spark, small_warehouse, small_night_config)


def _write_keys(path: Path, *keys: bytes) -> None:
    path.write_text("".join(f"{key.hex()}\n" for key in keys))
    path.chmod(0o600)


def test_nobodys_id_is_written_and_a_key_can_be_rotated(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv(KEYS_FILE, str(path))
    with pytest.raises(ConfigError, match="users are to be pseudonyms and there is no file of key"):
        run(DAYS[0], user_ids="pseudonym")
    _write_keys(path, OLD)
    steps = (prepare, score, publish, measure)
    for day in DAYS[:2]:
        warehouse = run(day, steps=steps)
    assert {path.partition("/")[0] for path in files_with(warehouse.root, NAME)} == {"raw"}
    pseudonym = UserKeys([OLD]).pseudonym(NAME)
    found = lookup(warehouse, NAME)
    assert found.user_id == pseudonym
    assert found.recommendations == lookup(warehouse, pseudonym).recommendations
    assert len(found.history) == 5
    quarantine = warehouse.root / warehouse.features_manifest(DAYS[1])["path"] / "quarantine"
    with duckdb.connect() as database:
        raws = database.sql(f"SELECT reason, raw FROM '{quarantine}/*.parquet'").fetchall()
    (untimely,) = [raw for reason, raw in raws if reason == "bad_timestamp"]
    assert f'"user_id":"{pseudonym}"' in untimely
    unread = "not kept, where users are pseudonyms: 35 characters"
    assert unread in [raw for reason, raw in raws if reason == "malformed_record"]

    _write_keys(path, OLD, NEW)
    rotated = run(DAYS[2], steps=steps)
    assert rotated.features_manifest(DAYS[2])["base"]["ds"] == DAYS[1]
    new = UserKeys([OLD, NEW])
    assert lookup(rotated, NAME).user_id == new.pseudonym(NAME)
    assert lookup(rotated, NAME, DAYS[1]).user_id == pseudonym
    sequences = rotated.root / rotated.features_manifest(DAYS[2])["path"] / "sequences"
    with duckdb.connect() as database:
        rows = dict(
            database.sql(f"SELECT user_id, n_events FROM '{sequences}/*.parquet'").fetchall()
        )
    assert rows[new.pseudonym(NAME)] == 12  # of three days
    assert all(is_pseudonym(user) for user in rows)
    assert len(rows) == 11  # ten and new
    figures = rotated.measured_days()[DAYS[2]]
    assert figures["overlap"] is not None
    assert figures["control_hit"] is not None
    for key in (OLD, NEW):
        assert key.hex() not in caplog.text
        assert not files_with(rotated.root, key.hex())

    _write_keys(path, NEW)
    with pytest.raises(ConfigError, match="has pseudonyms by the keys .*, and the keys here are"):
        lookup(rotated, NAME)
