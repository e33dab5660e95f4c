"""Ask the nightly tables: DuckDB views over the published Parquet files, in memory, read-only.

Views: ``recommendations`` (every published day), ``recommendations_latest`` (the newest),
``runs`` (one row a scored and audited run), ``quarantine`` (rejected raw rows by day), ``trainings``
(one row a trained model, with the verdict on it), ``metrics_daily`` (one row a measured day;
``recbole_llm.figures`` says what each column is).
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from recbole_llm.errors import ArtifactError, ConfigError, NotFoundError
from recbole_llm.figures import COLUMNS
from recbole_llm.parquet_tables import ParquetTables, duckdb_over
from recbole_llm.pseudonyms import KEYS_FILE, is_pseudonym, read_user_keys
from recbole_llm.sinks import Tables
from recbole_llm.warehouse import Warehouse

_RUN_COLUMNS = {
    "ds": "DATE", "run_id": "VARCHAR", "status": "VARCHAR", "faults": "VARCHAR",
    "model_version": "VARCHAR", "model_data_cut": "DATE", "k": "INTEGER", "raw_rows": "BIGINT",
    "accepted_rows": "BIGINT", "late_rows": "BIGINT", "quarantined_rows": "BIGINT",
    "duplicate_rows": "BIGINT", "n_users": "BIGINT", "n_items": "BIGINT", "n_rows": "BIGINT",
    "n_fallback_users": "BIGINT", "n_short_users": "BIGINT", "n_filled_rows": "BIGINT",
    "n_carried_users": "BIGINT", "n_unknown_items": "BIGINT",
    "features_seconds": "DOUBLE", "score_seconds": "DOUBLE", "publish_seconds": "DOUBLE",
    "started_at": "TIMESTAMPTZ", "finished_at": "TIMESTAMPTZ", "path": "VARCHAR",
}  # fmt: skip

_QUARANTINE_COLUMNS = {
    "ds": "DATE", "source": "VARCHAR", "reason": "VARCHAR", "raw": "VARCHAR"
}  # fmt: skip

_TRAINING_COLUMNS = {
    "ds": "DATE", "model_version": "VARCHAR", "verdict": "VARCHAR", "reason": "VARCHAR",
    "data_cut": "DATE", "train_since": "DATE", "champion_before": "VARCHAR",
    "n_users": "BIGINT", "n_events": "BIGINT",
    "champion_ndcg": "DOUBLE", "challenger_ndcg": "DOUBLE", "difference": "DOUBLE",
    "lower": "DOUBLE", "margin": "DOUBLE", "confidence": "DOUBLE", "test_ndcg": "DOUBLE",
    "epochs": "BIGINT", "best_epoch": "BIGINT", "train_seconds": "DOUBLE", "warm_from": "VARCHAR",
    "cold_because": "VARCHAR", "n_known_items": "BIGINT", "n_new_items": "BIGINT",
    "decided_at": "TIMESTAMPTZ",
}  # fmt: skip


def connect(warehouse: Warehouse) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the six views; it can open their files and no other.

    Raises:
        NotFoundError: nothing is published yet.
        ArtifactError: a file that a view needs is damaged.
    """
    days = warehouse.published_days()
    if not days:
        warehouse.published_run(None)  # raises, saying what to do
    database = duckdb.connect()
    root = warehouse.root
    tables = {day: _files(root / run["path"], "parquet") for day, run in days.items()}
    every_table = list(itertools.chain.from_iterable(tables.values()))
    # Tables of earlier versions have fewer columns.
    _view(database, "recommendations", f"read_parquet({_list(every_table)}, union_by_name = true)")
    _view(database, "recommendations_latest", f"read_parquet({_list(tables[max(tables)])})")
    opened = [*every_table]
    for name, folder, columns in (
        ("runs", warehouse.run_log, _RUN_COLUMNS),
        ("trainings", warehouse.decisions, _TRAINING_COLUMNS),
        ("metrics_daily", warehouse.metrics, COLUMNS),
    ):
        rows = _files(folder, "json")  # one each
        types = ", ".join(f"{column}: '{kind}'" for column, kind in columns.items())
        _view(
            database,
            name,
            f"read_json({_list(rows)}, columns = {{{types}}})" if rows else _empty(columns),
        )
        opened += rows
    manifests = warehouse.features_manifests().values()
    folders = [root / manifest["path"] / "quarantine" for manifest in manifests]
    quarantines = [file for folder in folders for file in _files(folder, "parquet")]
    source = f"read_parquet({_list(quarantines)})" if quarantines else _empty(_QUARANTINE_COLUMNS)
    _view(database, "quarantine", source)
    database.execute(f"SET allowed_paths = {_list([*opened, *quarantines])}")
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
        if relation is not None:
            relation = relation.materialize()  # so that what fails on the way fails here
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
    """The newest items the user met, newest first: item_id, title, timestamp (Unix seconds), and
    is_read, false where the user does not want it read. Empty where the day's state was deleted, after
    ``keep_days``, or is not in this warehouse."""
    recommendations: list[dict[str, Any]]
    """rank, item_id, title, score, reason, why; best first."""
    path: Path | None
    """Where the table's files lie; None where a sink was asked."""


def lookup(
    warehouse: Warehouse,
    user_id: str,
    day: str | None = None,
    k: int = 10,
    n_history: int = 5,
    tables: Tables | None = None,
) -> Lookup:
    """Answer for one user from the published table, or from a sink's copy of it.

    Args:
        day: a published day; the newest when None.
        k: recommendations wanted, at most what the table holds.
        n_history: history items wanted.
        tables: where to ask; the warehouse's own files when None. History and titles come from the
            warehouse, as far as it has them.
    Raises:
        NotFoundError: nothing, or not that day, is published, or the user is not in the table.
    """
    asked = tables or ParquetTables(warehouse)
    user_id = name_in_table(warehouse, user_id, day)
    rows = asked.user_rows(user_id, day, k)
    if not rows:
        days = asked.loaded()
        if not days or (day is not None and day not in days):
            raise NotFoundError(f"no table for {day or 'any day'}: {len(days)} days are there")
        if not is_pseudonym(user_id) and (day or max(days)) not in warehouse.published_days():
            raise NotFoundError(
                f"user {user_id!r} is not in the table of {day or max(days)}, and {warehouse.root} "
                "cannot tell what stands for users there; where it is pseudonyms, ask by one"
            )
        raise NotFoundError(
            f"user {user_id!r} is not in the table of {day or max(days)}: they had no usable event "
            "up to that day"
        )
    first, published = rows[0], warehouse.published_days().get(rows[0]["ds"])
    history, titles = _told_of(warehouse, published, user_id, n_history, rows)
    return Lookup(
        first["ds"], user_id, first["run_id"], first["model_version"], history,
        [
            {"rank": row["rank"], "item_id": row["item_id"], "title": titles.get(row["item_id"], ""),
             "score": row["score"], "reason": row["reason"], "why": row["why"]}
            for row in rows
        ],
        warehouse.root / published["path"] if published and tables is None else None,
    )  # fmt: skip


def name_in_table(warehouse: Warehouse, user_id: str, day: str | None) -> str:
    """What stands for a user in a day's table: the id, or its pseudonym.

    Args:
        user_id: an id; a pseudonym is given back as it is.
        day: a published day; the newest when None.
    Raises:
        ConfigError: the table has pseudonyms and their keys are not there.
    """
    days = warehouse.published_days()
    run = days.get(day or max(days, default=""), {})
    names = run.get("settings", {}).get("user_keys", [])
    if not names or is_pseudonym(user_id):
        return user_id
    keys = read_user_keys()
    if keys.names[: len(names)] != names:
        raise ConfigError(
            f"the table of {run['ds']} has pseudonyms by the keys {names}, and the keys here are "
            f"{keys.names}; name the right file by {KEYS_FILE}, or ask for the pseudonym"
        )
    return keys.pseudonym(user_id, len(names))


def _told_of(
    warehouse: Warehouse,
    run: dict[str, Any] | None,
    user_id: str,
    n_history: int,
    rows: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The user's history, and the titles of the recommended items; empty where they are not told."""
    features = warehouse.state_of(run) if run else None
    has_state = features is not None and (features / "sequences").is_dir()
    if not has_state:  # past its days; later states know all items
        paths = [manifest["path"] for manifest in warehouse.features_manifests().values()]
        if not paths:
            return [], {}
        features = warehouse.root / paths[-1]
    items = f"{features}/items/*.parquet"
    with duckdb_over(features or warehouse.root) as database:
        titles = dict(
            database.execute(
                "SELECT item_id, coalesce(title, '') FROM read_parquet($items) "
                "WHERE list_contains($ids, item_id)",
                {"items": items, "ids": [row["item_id"] for row in rows]},
            ).fetchall()
        )
        history = [] if not has_state else _dicts(
            database.execute(
                "SELECT item_id, coalesce(title, '') AS title, timestamp,"
                "       NOT list_contains(unread_ids, item_id) AS is_read FROM ("
                "  SELECT unnest(item_ids) AS item_id, unnest(timestamps) AS timestamp,"
                "         generate_subscripts(item_ids, 1) AS position, unread_ids"
                "  FROM read_parquet($sequences) WHERE user_id = $user_id"
                ") AS h LEFT JOIN read_parquet($items) AS i USING (item_id) "
                "ORDER BY position DESC LIMIT $n",
                {"sequences": f"{features}/sequences/*.parquet", "items": items,
                 "user_id": user_id, "n": n_history},
            )
        )  # fmt: skip
    return history, titles


def latest_user(warehouse: Warehouse, day: str | None = None) -> str:
    """The user with the newest event behind a published table; of several the first by id."""
    run = warehouse.published_run(day)
    sequences = f"{warehouse.state_of(run)}/sequences/*.parquet"
    with duckdb_over(warehouse.state_of(run)) as database:
        row = database.execute(
            "SELECT user_id FROM read_parquet($sequences) "
            "ORDER BY list_max(timestamps) DESC NULLS LAST, user_id LIMIT 1",
            {"sequences": sequences},
        ).fetchone()
    assert row is not None
    return str(row[0])


def _view(database: duckdb.DuckDBPyConnection, name: str, source: str) -> None:
    try:
        database.execute(f"CREATE VIEW {name} AS SELECT * FROM {source}")
    except duckdb.Error as error:
        raise ArtifactError(f"the files of {name} cannot be read: {error}; restore them") from None


def _empty(columns: dict[str, str]) -> str:
    nulls = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns.items())
    return f"(SELECT {nulls}) WHERE false"


def _files(folder: Path, kind: str) -> list[str]:
    return sorted(str(path) for path in folder.glob(f"*.{kind}"))


def _list(texts: Any) -> str:
    """A DuckDB list of strings; our own paths, quoted."""
    return "[" + ", ".join("'" + str(text).replace("'", "''") + "'" for text in texts) + "]"


def _dicts(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
