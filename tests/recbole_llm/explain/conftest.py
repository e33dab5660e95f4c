"""A small model that was trained on the cycle by RecBole, and a night that it ranked."""

import datetime
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llm.published import publish_run
from recbole_llm.recommendations import RECOMMENDATIONS
from recbole_llm.scoring import load_scorer
from recbole_llm.train import train
from recbole_llm.warehouse import Warehouse
from tests.data import walk, write_cycle

DAY = "2024-05-02"
HOSTILE = "</b><script>alert(1)</script> \"'&"


def train_cycle(
    folder: Path, encoder: str, titles: dict[str, str] | None = None, **settings: Any
) -> Path:
    """An artifact of a model that was trained on the cycle, or on items of other titles there."""
    write_cycle(folder, titles=titles)
    given = {
        "hidden_size": 16, "n_layers": 2, "inner_size": 16, "learning_rate": 0.02,
        "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 16, "text_size": 8, "epochs": 8,
        "encoder": encoder, "text_cache": str(folder / "cache.sqlite"), "data_path": str(folder),
        "artifact_dir": str(folder / "artifacts"), "checkpoint_dir": str(folder / "saved"),
        **settings,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tests"])  # RecBole reads flags of any command line
        patch.chdir(folder)
        artifact = train("LLMSeqRec", "cycle", None, given).artifact
    assert artifact is not None
    return artifact


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_encoders: dict[str, Path]) -> Path:
    """An artifact whose items are IDs, a language model's texts and TF-IDF's; tests only read it."""
    return train_cycle(tmp_path_factory.mktemp("trained"), f"{tiny_encoders['bert']}+tfidf")


@pytest.fixture
def night(tmp_path: Path, trained: Path) -> Warehouse:
    """A published night of ``publish_night``."""
    return publish_night(tmp_path / "warehouse", trained)


def publish_night(root: Path, trained: Path) -> Warehouse:
    """Publish a night of two users. Both took the item that they met last out of their histories, and
    one met an item that the model does not know."""
    warehouse = Warehouse(root)
    warehouse.artifacts.mkdir(parents=True)
    (warehouse.artifacts / trained.name).symlink_to(trained)
    scorer = load_scorer(trained)
    histories = {"u1": walk(0, 4), "u2": ["unheard", *walk(5, 7)]}
    features, table = f"features/ds={DAY}/a", f"runs/ds={DAY}/run_id=r1/a"
    sequences = [
        {"user_id": user, "item_ids": [*items, "cold"], "timestamps": list(range(len(items) + 1)),
         "unread_ids": ["cold"]}
        for user, items in histories.items()
    ]  # fmt: skip
    catalogue = [
        {"item_id": item, "title": title, "category": None if item == "cold" else "Round"}
        for item, title in zip(scorer.artifact.item_ids, scorer.artifact.titles, strict=True)
    ]
    rows = []
    for user, items in histories.items():
        top = scorer.top_k([items], 3)
        for rank, (item, score) in enumerate(
            zip(top.item_ids[0], top.scores[0], strict=True), start=1
        ):
            rows.append(
                {"ds": datetime.date.fromisoformat(DAY), "user_id": user, "rank": rank,
                 "item_id": item, "score": float(score), "reason": "model",
                 "model_version": trained.name, "run_id": "r1",
                 "generated_at": datetime.datetime(2024, 5, 3, tzinfo=datetime.UTC)}
            )  # fmt: skip
    rows[-1] |= {"reason": "popular", "score": 0.01}
    _write(warehouse.root / features / "sequences", pa.Table.from_pylist(sequences))
    _write(warehouse.root / features / "items", pa.Table.from_pylist(catalogue))
    _write(warehouse.root / table, pa.Table.from_pylist(rows, RECOMMENDATIONS))
    publish_run(
        warehouse,
        {"ds": DAY, "run_id": "r1", "path": table, "features_path": features,
         "model_version": trained.name, "k": 3},
        keep_runs=1,
    )  # fmt: skip
    return warehouse


def _write(folder: Path, table: pa.Table) -> None:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-0.parquet")
