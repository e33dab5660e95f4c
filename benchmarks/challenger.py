"""What a warm start saves: a challenger from the champion's weights, and the same one from none.

    python -m benchmarks.challenger

The feed derived from ml-100k. The first champion is trained on the features of one day; a week later
a challenger is trained by the night's own settings, once warm and once cold, and each is judged
against that champion, as ``weekly_training`` does it. With the default days the champion was trained
on all that the challengers are trained on; ``--champion-day=2024-05-17`` leaves them a week more.

**best_epoch**: the epoch whose weights were best on validation. **train_seconds** and
**cpu_seconds**: of the whole training, the patience after the best epoch and the test included.

Writes ``benchmarks/results/challenger.json``.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.about import RESULTS, describe_run
from recbole_llm.champion import train_champion
from recbole_llm.config_files import config_path
from recbole_llm.feed import write_feed
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.config import load_night_config
from spark_jobs.job import Job, start_spark
from spark_jobs.prepare_features import prepare

_PATH = RESULTS / "challenger.json"
_KEPT = (
    "epochs", "best_epoch", "train_seconds", "cpu_seconds", "warm_from", "n_known_items",
    "n_new_items", "verdict", "reason", "n_users", "n_events", "champion_ndcg", "challenger_ndcg",
    "difference", "lower",
)  # fmt: skip

_SMALL = {"encoder": "tfidf", "hidden_size": 32, "n_layers": 1, "inner_size": 64}


def main() -> None:
    """Train the champion and both challengers, and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--champion-day", default="2024-05-24")
    parser.add_argument("--day", default="2024-05-31")
    parser.add_argument(
        "--small",
        action="store_true",
        help="one layer of width 32 on TF-IDF text, not the night's own settings",
    )
    args = parser.parse_args()
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads flags of whatever program it runs in
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    shipped = (
        config_path(".", "nightly").read_text().replace("user_ids: pseudonym", "user_ids: plain")
    )
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(folder)
        config_file = warehouse.root / "nightly.yaml"
        small = "training:" + "".join(f"\n  {key}: {value}" for key, value in _SMALL.items())
        config_file.write_text(shipped.replace("training:", small) if args.small else shipped)
        write_feed(warehouse)
        config = load_night_config(config_file)
        with start_spark("features", config) as spark:
            for day in (args.champion_day, args.day):
                prepare(Job(spark, warehouse, config, day))
        warehouse.training.mkdir(parents=True)
        os.chdir(warehouse.training)  # RecBole writes its logs into the working directory
        trainings = {"champion": train(warehouse, config_file, args.champion_day)}
        pointer = json.loads(warehouse.champion.read_text())
        for name in ("warm", "cold"):
            shutil.rmtree(warehouse.decisions)
            trainings[name] = train(warehouse, config_file, args.day, cold=name == "cold")
            replace_json(warehouse.champion, pointer)
    warm, cold = trainings["warm"], trainings["cold"]
    content = {
        **about,
        **vars(args),
        "trainings": trainings,
        "figures": {
            f"warm_over_cold_{name}": round(warm[name] / cold[name], 3)
            for name in ("best_epoch", "train_seconds", "cpu_seconds")
        },
    }
    replace_json(_PATH, content)
    sys.stdout.write(json.dumps({**trainings, **content["figures"]}, indent=2) + "\n")


def train(warehouse: Warehouse, config_file: Path, day: str, cold: bool = False) -> dict[str, Any]:
    """One training as ``weekly_training`` runs it; what its decision says."""
    began = time.process_time()
    train_champion(warehouse, config_file, day, if_none=False, cold=cold)
    (path,) = warehouse.decisions.glob("*.json")
    decision = json.loads(path.read_text())
    decision["cpu_seconds"] = round(time.process_time() - began, 1)
    return {key: decision.get(key) for key in _KEPT}


if __name__ == "__main__":
    main()
