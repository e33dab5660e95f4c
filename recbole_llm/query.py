"""Ask the nightly tables: DuckDB views over the published Parquet files, in memory, read-only.

Views: ``recommendations`` (every published day), ``recommendations_latest`` (the newest),
``runs`` (one row a scored and audited run), ``quarantine`` (rejected raw rows by day),
``metrics_daily`` (one row a measured day; ``recbole_llm.figures`` says what each column is).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from recbole_llm.errors import ConfigError, NotFoundError
from recbole_llm.figures import COLUMNS
from recbole_llm.warehouse import Warehouse

_RUN_COLUMNS = {
    "ds": "DATE", "run_id": "VARCHAR", "status": "VARCHAR", "faults": "VARCHAR",
    "model_version": "VARCHAR", "model_data_cut": "DATE", "k": "INTEGER", "raw_rows": "BIGINT",
    "accepted_rows": "BIGINT", "late_rows": "BIGINT", "quarantined_rows": "BIGINT",
    "duplicate_rows": "BIGINT", "n_users": "BIGINT", "n_items": "BIGINT", "n_rows": "BIGINT",
    "n_fallback_users": "BIGINT", "n_carried_users": "BIGINT", "n_unknown_items": "BIGINT",
    "features_seconds": "DOUBLE", "score_seconds": "DOUBLE", "publish_seconds": "DOUBLE",
    "started_at": "TIMESTAMPTZ", "finished_at": "TIMESTAMPTZ", "path": "VARCHAR",
}  # fmt: skip


def connect(warehouse: Warehouse) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the five views; it can read the warehouse and nothing else.

    Raises:
        NotFoundError: nothing is published yet.
    """
    days = warehouse.published_days()
    if not days:
        warehouse.published_run(None)  # raises, saying what to do
    database = duckdb.connect()
    root = warehouse.root
    tables = {day: f"{root / run['path']}/*.parquet" for day, run in days.items()}
    _view(database, "recommendations", f"read_parquet({_list(tables.values())})")
    _view(database, "recommendations_latest", f"read_parquet({_list([tables[max(tables)]])})")
    _json_view(database, "runs", warehouse.run_log, _RUN_COLUMNS)
    _json_view(database, "metrics_daily", warehouse.metrics, COLUMNS)
    manifests = warehouse.features_manifests().values()
    quarantines = [f"{root / manifest['path']}/quarantine/*.parquet" for manifest in manifests]
    _view(database, "quarantine", f"read_parquet({_list(quarantines)})")
    database.execute(f"SET allowed_directories = {_list([f'{root}/'])}")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


def run_sql(warehouse: Warehouse, sql: str) -> duckdb.DuckDBPyRelation:
    """Run one read-only query over the views.

    Raises:
        ConfigError: not one SELECT, or not valid SQL; the message is DuckDB's.
        NotFoundError: nothing is published yet.
    """
    database = connect(warehouse)
    try:
        statements = database.extract_statements(sql)
        kinds = [statement.type for statement in statements]
        if kinds != [duckdb.StatementType.SELECT]:
            raise ConfigError(f"only one SELECT is allowed, got {len(kinds)} statements: {sql!r}")
        relation = database.sql(sql)
    except duckdb.Error as error:
        raise ConfigError(f"the query failed: {error}") from None
    if relation is None:
        raise ConfigError(f"the query gives no rows: {sql!r}")
    return relation


@dataclass(frozen=True)
class Lookup:
    """One user's row of the table, with what led to it."""

    ds: str
    user_id: str
    run_id: str
    model_version: str
    history: list[dict[str, Any]]
    """The newest items the user met, newest first: item_id, title, timestamp (Unix seconds). Empty
    where the day's state was deleted, after ``keep_days``."""
    recommendations: list[dict[str, Any]]
    """rank, item_id, title, score, reason; best first."""
    path: Path
    """Where the table's files lie."""


def lookup(
    warehouse: Warehouse, user_id: str, day: str | None = None, k: int = 10, n_history: int = 5
) -> Lookup:
    """Answer for one user from the published table.

    Args:
        day: a published day; the newest when None.
        k: recommendations wanted, at most what the table holds.
        n_history: history items wanted.
    Raises:
        NotFoundError: nothing, or not that day, is published, or the user is not in the table.
    """
    run = warehouse.published_run(day)
    table = f"{warehouse.root / run['path']}/*.parquet"
    features = warehouse.root / run["features_path"]
    has_state = (features / "sequences").is_dir()
    if not has_state:  # past its days; later states know all items
        features = warehouse.root / [*warehouse.features_manifests().values()][-1]["path"]
    items = f"{features}/items/*.parquet"
    with duckdb.connect() as database:
        recommendations = _dicts(
            database.execute(
                "SELECT rank, item_id, coalesce(title, '') AS title, score, reason "
                "FROM read_parquet($table) AS t LEFT JOIN read_parquet($items) AS i USING (item_id) "
                "WHERE user_id = $user_id AND rank <= $k ORDER BY rank",
                {"table": table, "items": items, "user_id": user_id, "k": k},
            )
        )
        if not recommendations:
            raise NotFoundError(
                f"user {user_id!r} is not in the table of {run['ds']}: they had no usable event up "
                "to that day"
            )
        history = [] if not has_state else _dicts(
            database.execute(
                "SELECT item_id, coalesce(title, '') AS title, timestamp FROM ("
                "  SELECT unnest(item_ids) AS item_id, unnest(timestamps) AS timestamp,"
                "         generate_subscripts(item_ids, 1) AS position"
                "  FROM read_parquet($sequences) WHERE user_id = $user_id"
                ") AS h LEFT JOIN read_parquet($items) AS i USING (item_id) "
                "ORDER BY position DESC LIMIT $n",
                {"sequences": f"{features}/sequences/*.parquet", "items": items,
                 "user_id": user_id, "n": n_history},
            )
        )  # fmt: skip
    return Lookup(
        run["ds"], user_id, run["run_id"], run["model_version"], history, recommendations,
        warehouse.root / run["path"],
    )  # fmt: skip


def latest_user(warehouse: Warehouse, day: str | None = None) -> str:
    """The user with the newest event behind a published table; of several the first by id."""
    run = warehouse.published_run(day)
    sequences = f"{warehouse.root / run['features_path']}/sequences/*.parquet"
    with duckdb.connect() as database:
        row = database.execute(
            "SELECT user_id FROM read_parquet($sequences) "
            "ORDER BY list_max(timestamps) DESC NULLS LAST, user_id LIMIT 1",
            {"sequences": sequences},
        ).fetchone()
    assert row is not None
    return str(row[0])


def _view(database: duckdb.DuckDBPyConnection, name: str, source: str) -> None:
    database.execute(f"CREATE VIEW {name} AS SELECT * FROM {source}")


def _json_view(
    database: duckdb.DuckDBPyConnection, name: str, folder: Path, columns: dict[str, str]
) -> None:
    """A view with a row for each JSON file of a folder, which may have none."""
    if files := sorted(str(path) for path in folder.glob("*.json")):
        types = ", ".join(f"{column}: '{kind}'" for column, kind in columns.items())
        _view(database, name, f"read_json({_list(files)}, columns = {{{types}}})")
    else:
        nulls = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns.items())
        _view(database, name, f"(SELECT {nulls}) WHERE false")


def _list(texts: Any) -> str:
    """A DuckDB list of strings; our own paths, quoted."""
    return "[" + ", ".join("'" + str(text).replace("'", "''") + "'" for text in texts) + "]"


def _dicts(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
