"""How long the service waits for a user's history, from the state that a night wrote.

    python -m benchmarks.histories

The state's tables of users, random ones, are written twice: as ``prepare_features`` writes them, and
with Spark's own size of row groups. Both are asked for the same random users, one after the other and
in turns, through what the service asks (``UserFile``), all warm.

**history_ms_p50**, **history_ms_p99**: milliseconds for a user's row of ``sequences``; **opinions_…**
likewise. **spark_history_…**: with Spark's row groups. **spark_over_ours**: the median waits' ratio.
**bytes_over_spark**: of the files that
``prepare_features`` writes over those. **mismatches**: answers that are not the same.

Writes ``benchmarks/results/histories.json``.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as f

from benchmarks.about import RESULTS, describe_run
from recbole_llm.config_files import config_path
from recbole_llm.serve.snapshot import user_files
from recbole_llm.warehouse import replace_json
from spark_jobs import schemas
from spark_jobs.config import load_night_config
from spark_jobs.job import start_spark
from spark_jobs.state import GROUP_BYTES, State, empty_state, write_state

_PATH = RESULTS / "histories.json"
_OURS, _SPARKS = "history", "spark_history"
_SPARKS_GROUPS = dict.fromkeys(GROUP_BYTES, 128 << 20)


def main() -> None:
    """Write, ask, and print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--longest", type=int, default=85, help="items of a history; 5 at least")
    parser.add_argument("--questions", type=int, default=100, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    about = describe_run()
    config = load_night_config(Path(config_path(".", "nightly")))
    with tempfile.TemporaryDirectory() as temporary:
        spark = start_spark("histories", config)
        random = random_state(spark, args.users, args.items, args.longest)
        folders = {_OURS: Path(temporary, "ours"), _SPARKS: Path(temporary, "spark")}
        for name, folder in folders.items():
            groups = GROUP_BYTES if name == _OURS else _SPARKS_GROUPS
            write_state(random, folder, config.partitions, groups)
        spark.stop()
        waits, mismatches = ask(folders, args)
        sizes = {name: _bytes(folder) for name, folder in folders.items()}
    content = {
        **about,
        "versions": {name: version(name) for name in ("pyspark", "pyarrow")},
        "seed": 0,
        **vars(args),
        "files": config.partitions,
        "load_average": round(os.getloadavg()[0], 1),
        "mismatches": mismatches,
        "bytes": sizes,
        "figures": {
            **{
                f"{name}_ms_p{share}": round(float(np.percentile(each, share)), 2)
                for name, each in waits.items()
                for share in (50, 99)
            },
            "spark_over_ours": round(
                statistics.median(waits[_SPARKS]) / statistics.median(waits[_OURS]), 1
            ),
            "bytes_over_spark": round(sizes[_OURS] / sizes[_SPARKS], 3),
        },
    }
    replace_json(_PATH, content)
    sys.stdout.write(json.dumps({**content["figures"], "mismatches": mismatches}, indent=2) + "\n")


def random_state(spark: SparkSession, n_users: int, n_items: int, longest: int) -> State:
    """Users with 5 to ``longest`` random items each, and what they said of three of them."""
    times = f.transform(
        f.sequence(f.lit(1), (5 + f.rand(1) * (longest - 4)).cast("int")),
        lambda n: (f.lit(1_700_000_000) + n * 86_400 + f.col("id") % 86_400).cast("bigint"),
    )
    known: dict[str, Column] = {
        "user_id": f.format_string("user-%08d", "id"),
        "timestamps": f.col("timestamps"),
        # Each place of a history draws from the catalogue by a hash of user and time.
        "item_ids": f.transform(
            "timestamps",
            lambda at: f.format_string("item-%07d", f.pmod(f.xxhash64("id", at), f.lit(n_items))),
        ),
        "n_events": f.size("timestamps").cast("bigint"),
        "market": f.lit("de"),
    }
    users = spark.range(n_users).withColumn("timestamps", times)
    sequences = users.select(
        *(
            known.get(field.name, f.lit(None)).cast(field.dataType).alias(field.name)
            for field in schemas.SEQUENCES
        )
    )
    opinions = users.select(
        f.col("id"), f.explode(f.slice("timestamps", 1, 3)).alias("said_at")
    ).select(
        known["user_id"].alias("user_id"),
        f.format_string("item-%07d", (f.rand(2) * n_items).cast("int")).alias("item_id"),
        f.lit("like").alias("says"),
        "said_at",
    )
    nothing = empty_state(spark)
    return State(sequences, nothing.items, opinions, nothing.recent)


def ask(folders: dict[str, Path], args: argparse.Namespace) -> tuple[dict[str, list[float]], int]:
    """Each answer's milliseconds, and the answers that differ."""
    generator = np.random.default_rng(0)
    files = {name: user_files(folder, "sequences") for name, folder in folders.items()}
    files["opinions"] = user_files(folders[_OURS], "opinions")
    waits: dict[str, list[float]] = {name: [] for name in files}
    mismatches = 0
    for number in range(args.rounds + 1):
        for user in generator.integers(args.users, size=args.questions).tolist():
            answers: dict[str, Any] = {}
            for name, some in files.items():
                started = time.perf_counter()
                answers[name] = [row for file in some for row in file.rows(f"user-{user:08}")]
                if number:  # the first round warms
                    waits[name].append(1000 * (time.perf_counter() - started))
            mismatches += answers[_OURS] != answers[_SPARKS] or len(answers["opinions"]) != 3
    return waits, mismatches


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


if __name__ == "__main__":
    main()
