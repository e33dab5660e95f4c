"""What a night costs when everybody changed, when a twentieth did, and when nobody did.

    python -m benchmarks.nightly

Users with random histories over a random catalogue and an untrained model of the default shape, on
Spark's two local cores. The first day brings everybody's events, the second one event each of a
twentieth of the users, the third nothing. The second day is scored twice, once without carrying over
(``carry_over: false``): that is the full night, and both tables must agree. Each night is scored
several times, and the fastest counts.

**changed_5pct_over_full** and **unchanged_over_full**: seconds of ``score_users`` over the full
night's. **mismatches**: rows whose item is another although no score nearby is as close as 1e-5.

Writes ``benchmarks/results/nightly.json``.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.about import RESULTS, describe_run
from recbole_llm.config_files import config_path
from recbole_llm.layers import SequenceConfig, SequenceEncoder
from recbole_llm.scoring import Artifact, write_artifact
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.config import load_night_config
from spark_jobs.job import Job, start_spark
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from spark_jobs.state import TABLES

DAYS = ("2024-05-01", "2024-05-02", "2024-05-03")
_MIDNIGHT = 1_714_521_600
_SECONDS_A_DAY = 86_400
_PATH = RESULTS / "nightly.json"
_log = logging.getLogger("benchmarks.nightly")


def main() -> None:
    """Run the three days and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=150_000)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--events", type=int, default=50, help="of each user on the first day")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    config = replace(load_night_config(Path(config_path(".", "nightly"))), user_ids="plain")
    full = replace(config, carry_over=False)
    with tempfile.TemporaryDirectory() as folder, start_spark("nightly", config) as spark:
        warehouse = Warehouse(folder)
        write_world(warehouse, args.users, args.items, args.events, np.random.default_rng(0))

        def run(step: Callable[[Job], None], number: int, settings: Any = config) -> dict[str, Any]:
            step(Job(spark, warehouse, settings, DAYS[number]))
            return {} if step is prepare else warehouse.scored_manifest(DAYS[number])

        def fastest(number: int, settings: Any = config) -> dict[str, Any]:
            nights = [run(score, number, settings) for _ in range(args.repeats)]
            return nights[-1] | {"score_seconds": min(night["score_seconds"] for night in nights)}

        for step in (prepare, score, publish):
            run(step, 0)
        run(prepare, 1)
        everybody = fastest(1, full)
        whole = shutil.copytree(warehouse.root / everybody["path"], Path(folder) / "whole")
        few = fastest(1)
        agreement = compare(whole, warehouse.root / few["path"])
        run(publish, 1)
        run(prepare, 2)
        nobody = fastest(2)
        run(publish, 2)
        nights = {"full": everybody, "changed_5pct": few, "unchanged": nobody}
        content = {
            **describe_run(),
            "seed": 0,
            **vars(args),
            "partitions": config.partitions,
            "nights": {
                name: {key: night[key] for key in
                       ("n_users", "n_carried_users", "score_seconds", "features_seconds")}
                | (published(warehouse, night) if night is not everybody else {})
                for name, night in nights.items()
            },
            **agreement,
            "figures": {
                f"{name}_over_full": round(night["score_seconds"] / everybody["score_seconds"], 4)
                for name, night in nights.items()
                if night is not everybody
            },
        }  # fmt: skip
    replace_json(_PATH, content)
    sys.stdout.write(json.dumps({**content["nights"], **agreement, **content["figures"]}, indent=2))
    sys.stdout.write("\n")


def published(warehouse: Warehouse, night: dict[str, Any]) -> dict[str, Any]:
    """What publishing a night took, and the size of its table and state."""
    row = json.loads((warehouse.run_log / f"{night['run_id']}.json").read_text(encoding="utf-8"))

    def size(*folders: str) -> int:
        found = (warehouse.root.glob(f"{folder}/*.parquet") for folder in folders)
        return sum(path.stat().st_size for files in found for path in files)

    return {
        "n_rows": row["n_rows"],
        "publish_seconds": row["publish_seconds"],
        "table_bytes": size(night["path"]),
        "state_bytes": size(*(f"{night['features_path']}/{name}" for name in TABLES)),
    }


def write_world(
    warehouse: Warehouse, n_users: int, n_items: int, n_events: int, generator: np.random.Generator
) -> None:
    """Three raw days, a catalogue and a champion."""
    items = np.array([f"item-{n:07}" for n in range(n_items)])
    users = np.array([f"user-{n:08}" for n in range(n_users)])
    few = generator.choice(users, n_users // 20, replace=False)
    for number, (day, who) in enumerate(
        zip(DAYS, (users.repeat(n_events), few, few[:0]), strict=True)
    ):
        folder = warehouse.raw_events / f"ds={day}"
        folder.mkdir(parents=True)
        liked = (n_items * generator.random(len(who)) ** 3).astype(int)  # few are met by many
        seconds = (
            _MIDNIGHT + _SECONDS_A_DAY * number + generator.integers(_SECONDS_A_DAY, size=len(who))
        )
        events = pa.table({"user_id": who, "item_id": items[liked], "timestamp": seconds})
        pq.write_table(events, folder / "events.parquet")
    warehouse.raw_items.mkdir(parents=True)
    catalogue = pa.table({"item_id": items, "title": items})
    pq.write_table(catalogue, warehouse.raw_items / "items.parquet")
    artifact = write_artifact(untrained_artifact(list(items)), warehouse.artifacts)
    replace_json(warehouse.champion, {"model_version": artifact.name})


def untrained_artifact(item_ids: list[str], seed: int = 0) -> Artifact:
    """A network of the default shape with random weights: it costs what a trained one costs."""
    shape = SequenceConfig(
        hidden_size=64, n_layers=2, n_heads=2, inner_size=256, max_seq_length=50,
        hidden_dropout_prob=0.3, attn_dropout_prob=0.3, hidden_act="gelu", layer_norm_eps=1e-12,
        initializer_range=0.02, score="dot", temperature=0.07, repeat_lags=3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        matrix = torch.randn(len(item_ids) + 1, shape.hidden_size)
        matrix[0] = 0
        weights = SequenceEncoder(shape).state_dict()
    return Artifact(
        shape, weights, {"weight": torch.zeros(shape.repeat_lags)}, matrix,
        torch.zeros(len(item_ids) + 1), item_ids, item_ids, {},
    )  # fmt: skip


def compare(expected: Path, found: Path) -> dict[str, Any]:
    """Hold two tables against one another, row by row."""
    with duckdb.connect() as database:
        row = database.execute(
            """
            WITH a AS (SELECT *, lag(score) OVER w AS above, lead(score) OVER w AS below
                       FROM read_parquet($a) WINDOW w AS (PARTITION BY user_id ORDER BY rank)),
                 b AS (SELECT * FROM read_parquet($b))
            SELECT count(*), count(*) FILTER (a.item_id IS NULL OR b.item_id IS NULL),
                   count(*) FILTER (a.item_id != b.item_id
                       AND NOT coalesce(a.above - a.score < 1e-5, false)
                       AND NOT coalesce(a.score - a.below < 1e-5, false)),
                   max(abs(a.score - b.score))
            FROM a FULL JOIN b USING (user_id, rank)
            """,
            {"a": f"{expected}/*.parquet", "b": f"{found}/*.parquet"},
        ).fetchone()
    assert row is not None
    rows, absent, mismatches, difference = row
    return {
        "rows": rows, "rows_in_one_alone": absent, "mismatches": mismatches,
        "largest_score_difference": difference,
    }  # fmt: skip


if __name__ == "__main__":
    main()
