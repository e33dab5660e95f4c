"""What stands in PostgreSQL: one table a day behind a partitioned one, a view, a role that may read.

recommendations             partitioned by day; a partition is a published run
recommendations_latest      the newest day
recommendations_loads       which run is loaded for which day
recommendations_loading     a load that goes on, or one that was killed
recommendations_reader      a role that may SELECT from the first three
"""

from typing import Any

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.sql import SQL, Composed, Identifier, Literal

from recbole_llm.errors import ConfigError
from recbole_llm.sinks.run_files import COLUMNS, RunFiles

# Byte order is Spark's and DuckDB's order of users, and the fastest to build an index in.
_CREATE = SQL("""
CREATE TABLE recommendations (
    ds date NOT NULL,
    user_id text COLLATE "C" NOT NULL CONSTRAINT user_id_is_not_empty CHECK (user_id <> ''),
    rank smallint NOT NULL,
    item_id text NOT NULL,
    score real NOT NULL CONSTRAINT score_is_finite
        CHECK (score > '-infinity'::real AND score < 'infinity'::real),
    reason text NOT NULL,
    model_version text NOT NULL,
    run_id text NOT NULL,
    generated_at timestamptz NOT NULL,
    why text,
    PRIMARY KEY (ds, user_id, rank)
) PARTITION BY LIST (ds);
CREATE TABLE recommendations_loads (
    ds date PRIMARY KEY,
    run_id text NOT NULL,
    n_rows bigint NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);
CREATE VIEW recommendations_latest AS SELECT * FROM recommendations WHERE false;
""")
_READER = "recommendations_reader"
_COLUMNS_OF = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'recommendations'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_TYPES = ("date", "text", "smallint", "text", "real", "text", "text", "text",
          "timestamp with time zone", "text")  # fmt: skip
_ADDED = 1
"""Columns, the last, that tables of before may lack; they are added."""


def ensure_tables(connection: Connection[Any]) -> None:
    """Create what is not there, with the role that may read it.

    Raises:
        ConfigError: a table of that name has other columns, or the role is not there and must not
            be made by this user.
    """
    if _value(connection, "SELECT to_regclass('recommendations')") is not None:
        found = connection.execute(_COLUMNS_OF).fetchall()
        expected = list(zip(COLUMNS.names, _TYPES, strict=True))
        if found == expected[:-_ADDED]:
            for name, kind in expected[-_ADDED:]:
                connection.execute(
                    SQL("ALTER TABLE recommendations ADD COLUMN {} {}").format(
                        Identifier(name), SQL(kind)
                    )
                )
            return
        if found != expected:
            raise ConfigError(
                f"the database's table recommendations has the columns {found}, expected {expected}; "
                "move it away, or let the sink's address choose another schema by "
                "?options=-csearch_path%3DNAME"
            )
        return
    with connection.transaction():
        connection.execute(_CREATE)
        if not _value(connection, "SELECT count(*) FROM pg_roles WHERE rolname = %s", _READER):
            try:
                connection.execute(SQL("CREATE ROLE {} NOLOGIN").format(Identifier(_READER)))
            except InsufficientPrivilege:
                raise ConfigError(
                    f"this user may not create the role that reads the tables; let one who may run "
                    f"CREATE ROLE {_READER} NOLOGIN"
                ) from None
        schema = str(_value(connection, "SELECT current_schema()"))
        for grant in (
            SQL("GRANT USAGE ON SCHEMA {} TO {}").format(Identifier(schema), Identifier(_READER)),
            SQL("GRANT SELECT ON recommendations, recommendations_latest, recommendations_loads TO {}")
            .format(Identifier(_READER)),
        ):  # fmt: skip
            connection.execute(grant)


def create_loading(run: RunFiles, constants: dict[str, Any]) -> Composed:
    """The table that a run is loaded into, with what must hold of each row; no index yet."""
    defaults = [
        SQL("ALTER COLUMN {} SET DEFAULT {}").format(Identifier(name), Literal(value))
        for name, value in constants.items()
    ]
    checks = [
        SQL("ADD CONSTRAINT ds_is_the_partition CHECK (ds = {})").format(Literal(run.day)),
        SQL("ADD CONSTRAINT rank_is_1_to_k CHECK (rank BETWEEN 1 AND {})").format(Literal(run.k)),
        SQL("ADD CONSTRAINT run_is_the_published CHECK (run_id = {})").format(Literal(run.run_id)),
    ]
    return SQL(
        "DROP TABLE IF EXISTS recommendations_loading;"
        "CREATE TABLE recommendations_loading (LIKE recommendations INCLUDING CONSTRAINTS);"
        "ALTER TABLE recommendations_loading {}"
    ).format(SQL(", ").join([*checks, *defaults]))


def finish_loading(name: str, constants: dict[str, Any]) -> Composed:
    """Give the loaded table its key, and the name under which it will be attached."""
    changes = [SQL("ALTER COLUMN {} DROP DEFAULT").format(Identifier(each)) for each in constants]
    key = SQL("ADD CONSTRAINT {} PRIMARY KEY (ds, user_id, rank)").format(
        Identifier(f"{name}_pkey")
    )
    return SQL("ALTER TABLE recommendations_loading {}").format(SQL(", ").join([key, *changes]))


def swap(connection: Connection[Any], day: str, new: str | None, load: RunFiles | None) -> None:
    """In the caller's transaction: let the loaded table, or nothing, be the day's partition.

    Args:
        day: the day.
        new: the partition's name; None withdraws the day.
        load: what is loaded.
    """
    # First the view and then, by it, the table: the order in which a reader locks them. Nobody plans
    # a query against partitions of before and runs it against the view of now.
    connection.execute(
        "LOCK TABLE recommendations_latest, recommendations IN ACCESS EXCLUSIVE MODE"
    )
    for (old,) in connection.execute(
        "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'recommendations'::regclass "
        "AND pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES IN (%%L)', %s::text)",
        (day,),
    ).fetchall():
        connection.execute(
            SQL("ALTER TABLE recommendations DETACH PARTITION {0}; DROP TABLE {0}").format(
                Identifier(old)
            )
        )
    connection.execute("DELETE FROM recommendations_loads WHERE ds = %s", (day,))
    if new is not None and load is not None:
        connection.execute(
            SQL(
                "ALTER TABLE recommendations_loading RENAME TO {0};"
                "ALTER TABLE recommendations ATTACH PARTITION {0} FOR VALUES IN ({1})"
            ).format(Identifier(new), Literal(day))
        )
        connection.execute(
            "INSERT INTO recommendations_loads VALUES (%s, %s, %s)", (day, load.run_id, load.n_rows)
        )
    latest = _value(connection, "SELECT max(ds)::text FROM recommendations_loads")
    # The day stands in the view, so that a query is planned for one partition.
    connection.execute(
        SQL("CREATE OR REPLACE VIEW recommendations_latest AS SELECT * FROM recommendations WHERE {}")
        .format(SQL("false") if latest is None else SQL("ds = {}::date").format(Literal(latest)))
    )  # fmt: skip


def _value(connection: Connection[Any], query: str, *parameters: Any) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]
