"""From features to a champion, on the cycle: the artifact must walk it."""

import json
from pathlib import Path

import duckdb
import pytest

from recbole_llm.champion import train_champion
from recbole_llm.errors import ConfigError
from recbole_llm.scoring import load_scorer
from recbole_llm.warehouse import Warehouse, replace_json
from tests.data import CYCLE, walk

DAY = "2024-05-01"


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "w")
    attempt = warehouse.features(DAY) / "a"
    for name in ("sequences", "items"):
        (attempt / name).mkdir(parents=True)
    sequences = [(f"u{n}", walk(n, 6 + n % 9), list(range(6 + n % 9))) for n in range(36)]
    items = [(item, f"Film {item}", "", "") for item in CYCLE]
    with duckdb.connect() as database:
        for name, columns, rows in (
            ("sequences", "user_id text, item_ids text[], timestamps bigint[]", sequences),
            ("items", "item_id text, title text, category text, description text", items),
        ):
            database.execute(f"CREATE TABLE {name} ({columns})")
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
            database.execute(f"COPY {name} TO '{attempt / name}/0.parquet'")
    path = str(attempt.relative_to(warehouse.root))
    replace_json(warehouse.features(DAY) / "manifest.json", {"path": path})
    return warehouse


def _config(folder: Path, epochs: int, model: str = "LLMSeqRec") -> Path:
    path = folder / "night.yaml"
    path.write_text(
        f"training: {{model: {model}, item_repr: id, epochs: {epochs}, hidden_size: 16, n_layers: 1,"
        " learning_rate: 0.02, MAX_ITEM_LIST_LENGTH: 5, train_batch_size: 16}\n"
    )
    return path


@pytest.mark.slow
def test_trained_promoted_and_defended(warehouse: Warehouse, tmp_path: Path) -> None:
    version = train_champion(warehouse, _config(tmp_path, 15), DAY, if_none=True)
    scorer = load_scorer(warehouse.champion_artifact())
    assert scorer.top_k([["i3", "i4", "i5"]], 1).item_ids == [["i6"]]
    assert scorer.artifact.metadata["data_cut"] == DAY
    assert json.loads(warehouse.champion.read_text())["model_version"] == version
    assert train_champion(warehouse, _config(tmp_path, 15), DAY, if_none=True) == version
    # A training that went wrong does not take over.
    assert train_champion(warehouse, _config(tmp_path, 0), DAY, if_none=False) == version


def test_only_a_model_with_an_artifact_can_be_champion(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="must be LLMSeqRec, the model that has an artifact"):
        train_champion(warehouse, _config(tmp_path, 1, "SASRec"), DAY, if_none=False)
