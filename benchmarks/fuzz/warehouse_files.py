"""Targets: pointers, manifests and tables of a warehouse, and raw files read without Spark."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.shapes import damaged, json_documents
from benchmarks.fuzz.target import Target, file_target, write

_DAY = "2024-05-01"
_LINES = (
    b'{"user_id": "u1", "item_id": "i1", "timestamp": 1714564800}\n'
    b'{"user_id": "u2", "item_id": "i2", "timestamp": "2024-05-01 12:00:00", "event_type": "view"}\n'
)
_CSV = b'user_id,item_id,timestamp\nu1,i1,1714564800\n"u2",i2,1714564801\n'


def published(folder: Path) -> Target:
    """``published.json``, and all that asks it."""
    warehouse = _warehouse(folder)

    def read() -> None:
        from recbole_llm.published import roll_back
        from recbole_llm.query import latest_user, lookup, run_sql

        warehouse.published_run(None)
        run_sql(warehouse, "SELECT * FROM recommendations_latest").fetchall()
        lookup(warehouse, "u1", None)
        latest_user(warehouse)
        roll_back(warehouse, _DAY)

    return file_target(warehouse.published, read, json_documents)


def champion(folder: Path) -> Target:
    """``champion.json``."""
    warehouse = _warehouse(folder)

    def read() -> None:
        from recbole_llm.champion import train_champion

        warehouse.champion_artifact()
        train_champion(warehouse, folder / "none.yaml", _DAY, if_none=False)

    return file_target(warehouse.champion, read, json_documents)


def manifest(folder: Path) -> Target:
    """A day's features' ``manifest.json``."""
    warehouse = _warehouse(folder)
    from recbole_llm.config_files import config_path
    from recbole_llm.query import connect
    from spark_jobs.attempts import prune_features
    from spark_jobs.config import load_night_config
    from spark_jobs.lineage import find_base

    config = load_night_config(config_path(".", "nightly"))

    def read() -> None:
        warehouse.features_manifest(_DAY)
        connect(warehouse).close()
        find_base(warehouse, "2024-05-02", config, ["key"])
        prune_features(warehouse, _DAY)

    return file_target(warehouse.features(_DAY) / "manifest.json", read, json_documents)


def scored(folder: Path) -> Target:
    """``scored.json``, as the audit reads it."""
    warehouse = _warehouse(folder)
    from spark_jobs.attempts import prune_runs
    from spark_jobs.publish import promise_of

    def read() -> None:
        promise_of(warehouse.scored_manifest(_DAY), warehouse.root)
        prune_runs(warehouse, _DAY)

    return file_target(warehouse.runs(_DAY) / "scored.json", read, json_documents)


def run_log(folder: Path) -> Target:
    """A row of the table ``runs``."""
    warehouse = _warehouse(folder)
    path = warehouse.run_log / "run.json"

    def read() -> None:
        from recbole_llm.query import run_sql

        warehouse.logged_run("run")
        warehouse.log_run("run", {"status": "published"})
        run_sql(warehouse, "SELECT * FROM runs").fetchall()

    return file_target(path, read, json_documents)


def metrics(folder: Path) -> Target:
    """A row of the table ``metrics_daily``."""
    warehouse = _warehouse(folder)

    def read() -> None:
        from recbole_llm.query import run_sql

        warehouse.measured_days()
        run_sql(warehouse, "SELECT * FROM metrics_daily").fetchall()

    return file_target(warehouse.metrics / f"{_DAY}.json", read, json_documents)


def forgotten(folder: Path) -> Target:
    """``forgotten.json``."""
    warehouse = _warehouse(folder)

    def read() -> None:
        from recbole_llm.blocks import block, lift

        block(warehouse, ["u1"])
        lift(warehouse, ["u1"])

    return file_target(warehouse.forgotten, read, json_documents)


def table(folder: Path) -> Target:
    """A published Parquet file, looked up, asked by SQL and copied to a sink."""
    warehouse = _warehouse(folder)
    path = folder / "runs" / "table" / "part-0.parquet"

    def read() -> None:
        from recbole_llm.parquet_tables import ParquetTables
        from recbole_llm.query import run_sql
        from recbole_llm.sinks.run_files import COLUMNS, RunFiles

        ParquetTables(warehouse).user_rows("u1", _DAY, 3)
        run_sql(warehouse, "SELECT * FROM recommendations").fetchall()
        files = RunFiles(warehouse.root, warehouse.published_run(_DAY))
        files.constants()
        list(files.batches(COLUMNS.names))

    return file_target(path, read)


def user_keys(folder: Path) -> Target:
    """The file of secret keys."""
    from recbole_llm.pseudonyms import add_user_key, read_user_keys

    path = folder / "user_keys"
    write(path, b"0" * 64 + b"\n" + b"ab" * 32 + b"\n")

    def read() -> None:
        read_user_keys(path).pseudonym("u1")
        add_user_key(path)

    return file_target(path, read)


def raw_file(name: str, valid: bytes) -> Callable[[Path], Target]:
    """A raw file of one form: its head, its whole, and the search for a user who is forgotten."""

    def target(folder: Path) -> Target:
        import recbole_llm.forget as forgetting
        from recbole_llm.warehouse import Warehouse
        from spark_jobs import raw_events

        warehouse = Warehouse(folder)
        path = warehouse.raw_events / f"ds={_DAY}" / name
        path.parent.mkdir(parents=True)

        def read(data: bytes) -> None:
            write(path, data)
            with forgetting._naming_damaged(path):
                forgetting._without_records(path, ["u1"], warehouse, forgetting.Report())
            write(path, data)
            if path.suffix == ".parquet":
                raw_events._schema(path)
            else:
                raw_events._first_line(path)
            raw_events._read_whole(path)

        packed = st.binary(max_size=200).map(lambda data: gzip.compress(data, mtime=0))
        shaped = [packed] if name.endswith(".gz") else []
        return Target(read, [valid], st.one_of(damaged(valid), *shaped))

    return target


def _parquet(columns: dict[str, list[Any]], schema: Any = None) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="snappy")
    return sink.getvalue()


def raw_parquet(folder: Path) -> Target:
    """A raw Parquet file."""
    columns = {"user_id": ["u1", "u2"], "item_id": ["i1", "i2"], "timestamp": [1, 2]}
    return raw_file("events.parquet", _parquet(columns))(folder)


def _warehouse(folder: Path) -> Any:
    """A warehouse with one published day."""
    import datetime

    from recbole_llm.recommendations import RECOMMENDATIONS
    from recbole_llm.warehouse import POINTER_VERSION, Warehouse, replace_json

    warehouse = Warehouse(folder)
    at = datetime.datetime(2024, 5, 2, tzinfo=datetime.UTC)
    rows = {
        "ds": [at.date()] * 2, "user_id": ["u1", "u2"], "rank": [1, 1], "item_id": ["i1", "i2"],
        "score": [0.5, 0.25], "reason": ["model"] * 2, "model_version": ["m"] * 2,
        "run_id": ["run"] * 2, "generated_at": [at] * 2, "why": [None, "i1"],
    }  # fmt: skip
    features = folder / "features" / f"ds={_DAY}" / "attempt"
    for path, content in {
        folder / "runs" / "table" / "part-0.parquet": _parquet(rows, RECOMMENDATIONS),
        features / "items" / "part-0.parquet": _parquet({"item_id": ["i1"], "title": ["A film"]}),
        features / "sequences" / "part-0.parquet": _parquet(
            {"user_id": ["u1"], "item_ids": [["i1"]], "timestamps": [[1]], "unread_ids": [[""]]}
        ),
    }.items():
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    settings = {"user_keys": [], "exclude_seen": True, "max_per_category": 0, "markets": [], "k": 1}
    run = {
        "ds": _DAY, "run_id": "run", "path": "runs/table", "model_version": "m", "k": 1, "n_rows": 2,
        "features_path": f"features/ds={_DAY}/attempt", "settings": settings,
    }  # fmt: skip
    day = {**run, "before": [run]}
    for path, record in {
        warehouse.published: {"format_version": POINTER_VERSION, "latest": _DAY, "days": {_DAY: day}},
        warehouse.champion: {"model_version": "m", "data_cut": _DAY, "metrics": {}},
        warehouse.features(_DAY) / "manifest.json": {
            "ds": _DAY, "attempt": "attempt", "path": f"features/ds={_DAY}/attempt", "first_ds": _DAY,
            "base": {"ds": "2024-04-30", "fingerprint": "ab"}, "fingerprint": "cd", "settings": {},
            "user_keys": [], "sources": {},
        },
        warehouse.runs(_DAY) / "scored.json": run,
        warehouse.run_log / "run.json": {**run, "status": "published", "faults": ""},
        warehouse.metrics / f"{_DAY}.json": {"ds": _DAY, "hit": 0.5, "n_users": 2, "details": {}},
        warehouse.forgotten: {"salt": "ab", "marks": {"cd": _DAY}},
    }.items():  # fmt: skip
        replace_json(path, record)
    return warehouse


TARGETS: dict[str, Callable[[Path], Target]] = {
    "published.json": published,
    "champion.json": champion,
    "manifest.json": manifest,
    "scored.json": scored,
    "run log": run_log,
    "metrics": metrics,
    "forgotten.json": forgotten,
    "published table": table,
    "user keys": user_keys,
    "raw JSON lines": raw_file("events.jsonl", _LINES),
    "raw CSV": raw_file("events.csv", _CSV),
    "raw gzip": raw_file("events.csv.gz", gzip.compress(_CSV, mtime=0)),
    "raw Parquet": raw_parquet,
}
