"""A user is forgotten between two nights, and comes back when the block is lifted."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recbole_llm.cli import main
from recbole_llm.errors import NotFoundError
from recbole_llm.pseudonyms import KEYS_FILE, UserKeys, add_user_key
from recbole_llm.query import lookup
from recbole_llm.sinks import open_sink
from recbole_llm.sync import sync_all
from recbole_llm.warehouse import Warehouse
from tests.conftest import night_runner
from tests.data import files_with

pytestmark = pytest.mark.spark
DAYS = ["2024-05-01", "2024-05-02", "2024-05-03"]
NAME = "jane-doe"


@pytest.mark.parametrize("user_ids", ["pseudonym", "plain"])
def test_a_user_is_forgotten_and_stays_away(  # noqa: PLR0915
    spark: SparkSession,
    small_warehouse: Path,
    small_night_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    user_ids: str,
) -> None:
    keys = tmp_path / "keys"
    monkeypatch.setenv(KEYS_FILE, str(keys))
    name = NAME
    add_user_key(keys)
    if user_ids == "pseudonym":
        name = UserKeys([bytes.fromhex(keys.read_text().strip())]).pseudonym(NAME)
    warehouse = Warehouse(small_warehouse)
    for path in warehouse.raw_events.glob("*/events.jsonl"):
        path.write_text(path.read_text().replace('"u1"', f'"{NAME}"'))
    second = warehouse.raw_events / f"ds={DAYS[1]}"
    (second / "head.csv").write_text(
        f"item_id,user_id,timestamp,event_type\ni9,{NAME},1714651300,hide\ni9,u2,1714651300,hide\n"
    )
    with gzip.open(second / "broken.jsonl.gz", "wt") as file:
        file.write(f'{{"user_id": "{NAME}", "item\n{{"user_id": "u3", "item\n')
    run = night_runner(spark, small_warehouse, small_night_config)
    sink = f"delta:{tmp_path / 'delta'}"
    for day in DAYS[:2]:
        run(day, user_ids=user_ids, sinks=[sink], max_fallback_share=1.0)
    sync_all(warehouse, [sink])
    warehouse.training.mkdir()
    (warehouse.training / "night.inter").write_text(name)
    before = warehouse.features_manifest(DAYS[1])
    others = lookup(warehouse, "u2").recommendations
    assert lookup(warehouse, NAME).user_id == name

    flags = ["--warehouse", str(small_warehouse), "--config", str(small_night_config)]
    assert main(["forget", NAME, *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sinks"] == {sink: 6}  # two days of three items
    assert report["deleted"] == ["training"]
    kinds = Counter(path.split("/")[0] for path in report["rows"])
    assert kinds.keys() == {"raw", "features", "runs"}
    assert sum(n for path, n in report["rows"].items() if path.startswith("runs")) == 6
    (artifact,) = warehouse.artifacts.glob("*/forgotten.json")
    assert json.loads(artifact.read_text())["n_users"] == 1
    for root in (small_warehouse, tmp_path / "delta"):
        for text in {NAME, name}:
            assert files_with(root, text) == []
    with pytest.raises(NotFoundError, match=f"'{name}' is not in the table"):
        lookup(warehouse, NAME)
    assert lookup(warehouse, "u2").recommendations == others
    assert len(open_sink(sink).user_rows(lookup(warehouse, "u2").user_id, DAYS[1], 9)) == 3
    after = warehouse.features_manifest(DAYS[1])
    assert after["n_users"] == before["n_users"] - 1
    assert main(["forget", NAME, *flags]) == 0  # nothing is left to do
    assert json.loads(capsys.readouterr().out)["rows"] == {}
    assert json.loads(artifact.read_text())["n_users"] == 1

    third = warehouse.raw_events / f"ds={DAYS[2]}" / "again.jsonl"
    events = [
        {"user_id": NAME, "item_id": f"i{9 + n}", "timestamp": 1_714_736_000 - n * 86_400}
        for n in range(3)
    ]
    third.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    run(DAYS[2])  # late ones among them
    night = warehouse.features_manifest(DAYS[2])
    assert night["base"]["ds"] == DAYS[1]
    assert night["reasons"]["events.forgotten"] == 3
    rest = {path.split("/")[0] for path in files_with(small_warehouse, NAME)}
    assert rest == {"raw"}
    if user_ids == "pseudonym":
        assert files_with(small_warehouse, name) == []
    with pytest.raises(NotFoundError, match="is not in the table"):
        lookup(warehouse, NAME)

    assert main(["forget", NAME, "--lift", *flags]) == 0
    assert main(["forget", NAME, "--lift", *flags]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["lifted", "nobody of that id is blocked"]
    run(DAYS[2])
    assert [row["item_id"] for row in lookup(warehouse, NAME).history] == ["i9", "i10", "i11"]
