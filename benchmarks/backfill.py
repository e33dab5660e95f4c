"""Thirty days backfilled by Airflow against the same thirty nights run one by one.

    python -m benchmarks.backfill

A generated feed of thirty days, with late, repeated and malformed events and three catalogues. One
warehouse is filled by a real Airflow's backfill of ``nightly_features``, whose asset starts
``nightly_recommendations`` day by day; the other by the jobs themselves, each night in its turn.
Then each day's sequences, items, recent events, quarantine and published table are compared, row for
row, and with them the run ids and the counts of each manifest.

**differing_tables** must be 0. Airflow's own share of a night is what the backfill took above the
direct nights, a start of Spark for each of the three jobs included.

Writes ``benchmarks/results/backfill.json``.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.about import RESULTS, describe_run
from recbole_llm.airflow_local import LocalAirflow, run_backfill
from recbole_llm.scoring import write_artifact
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.config import load_night_config
from spark_jobs.job import Job, start_spark
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.data import random_artifact
from tests.thirty_days import write_days

HOME = Path(__file__).parent.parent
_PATH = RESULTS / "backfill.json"
_STATE = ("sequences", "items", "opinions", "recent", "quarantine")
_TELLS = {"attempt", "path", "seconds", "sources"}
"""What a manifest says of an attempt, not of the day."""
_SETTINGS = {
    "user_ids": "plain", "max_history": "8", "k": "3", "partitions": "2", "max_fallback_share": "1",
    "max_row_change": "9",
}  # fmt: skip


def main() -> None:
    """Run both, compare, and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=30, help="the first so many of the thirty")
    parser.add_argument("--port", type=int, default=8092, help="of the Airflow")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    about = describe_run()
    with tempfile.TemporaryDirectory() as folder:
        config_file = write_settings(Path(folder))
        backfilled, direct = (Warehouse(Path(folder) / name) for name in ("backfilled", "direct"))
        days = write_days(backfilled)[0][: args.days]
        direct.root.mkdir()
        (direct.root / "raw").symlink_to(backfilled.root / "raw")
        for warehouse in (backfilled, direct):
            artifact = write_artifact(
                random_artifact([f"i{n}" for n in range(20)]), warehouse.artifacts
            )
            replace_json(warehouse.champion, {"model_version": artifact.name})

        began = time.monotonic()
        config = load_night_config(config_file)
        with start_spark("nights", config) as spark:
            for day in days:
                for step in (prepare, score, publish):
                    step(Job(spark, direct, config, day))
        direct_s, began = time.monotonic() - began, time.monotonic()
        with LocalAirflow(
            HOME, backfilled.root, HOME / ".venv-airflow", port=args.port,
            env={"RECBOLE_LLM_CONFIG": str(config_file)},
        ) as airflow:  # fmt: skip
            run_backfill(airflow, days[0], days[-1])
        backfill_s = time.monotonic() - began
        rows, differing = compare_days(direct, backfilled, days)
    content = {
        **about,
        "days": len(days),
        "rows": rows,
        "differing": differing,
        "figures": {
            "differing_tables": len(differing),
            "compared_tables": len(days) * (len(_STATE) + 2),
            "direct_seconds": round(direct_s, 1),
            "backfill_seconds": round(backfill_s, 1),
        },
    }
    replace_json(_PATH, content)
    sys.stdout.write(json.dumps({"rows": rows, **content["figures"]}, indent=2) + "\n")


def write_settings(folder: Path) -> Path:
    """The shipped settings, cut to the size of the feed."""
    lines = (HOME / "configs" / "nightly.yaml").read_text().splitlines()
    changed = [
        f"{key}: {_SETTINGS[key]}" if (key := line.partition(":")[0]) in _SETTINGS else line
        for line in lines
    ]
    path = folder / "nightly.yaml"
    path.write_text("\n".join(changed) + "\n")
    return path


def compare_days(
    one: Warehouse, other: Warehouse, days: list[str]
) -> tuple[dict[str, int], list[str]]:
    """Hold two warehouses against each other, day for day and row for row.

    Returns:
        Rows compared by table, and the tables that differ, as ``2024-05-01 sequences``.
    """
    rows: dict[str, int] = {}
    differing = []
    for day in days:
        for name in _STATE:
            found = [_rows(w, f"{w.features_manifest(day)['path']}/{name}") for w in (one, other)]
            rows[name] = rows.get(name, 0) + len(found[0])
            if found[0] != found[1]:
                differing.append(f"{day} {name}")
        found = [_rows(w, str(w.published_run(day)["path"])) for w in (one, other)]
        rows["recommendations"] = rows.get("recommendations", 0) + len(found[0])
        if found[0] != found[1]:
            differing.append(f"{day} recommendations")
        told = [_told(warehouse.features_manifest(day)) for warehouse in (one, other)]
        if told[0] != told[1]:
            differing.append(f"{day} manifest")
    return rows, differing


def _rows(warehouse: Warehouse, path: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as database:
        return database.execute(
            "SELECT * FROM read_parquet($files) ORDER BY ALL",
            {"files": f"{warehouse.root / path}/*.parquet"},
        ).fetchall()


def _told(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in _TELLS}


if __name__ == "__main__":
    main()
