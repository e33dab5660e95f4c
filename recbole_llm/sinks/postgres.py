"""PostgreSQL as a sink: a day's table is loaded beside the others and takes its place in one step.

A load that is killed, or whose database goes away, leaves every day as it was; the next one clears
what it left. The address is libpq's, and so are the ways to give a password: ``PGPASSWORD``,
``PGPASSFILE``, ``~/.pgpass``, ``PGSERVICEFILE``. It needs a session of its own, not one that a pooler
hands on between transactions.

A transaction whose snapshot is older than a load (``REPEATABLE READ``) may find the loaded day empty.
"""

import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pyarrow as pa
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier
from pyarrow import csv

from recbole_llm.errors import ConfigError, DataError, RecboleLlmError, UnavailableError
from recbole_llm.sinks.postgres_tables import create_loading, ensure_tables, finish_loading, swap
from recbole_llm.sinks.run_files import COLUMNS, RunFiles

_DEFAULTS: dict[str, Any] = {
    "fallback_application_name": "recbole_llm",
    "connect_timeout": 10,
    # A host that went away is noticed in a minute or two, not in hours.
    "keepalives_idle": 30,
    "tcp_user_timeout": 60_000,
}
_LOCK = 0x7265636F
"""The first half of the advisory lock's key; the schema is the second."""
_SWAP_TRIES = 300
_SWAP_WAIT_MS = 500
"""Readers queue behind a swap that waits for an older one, so it steps back for a second."""

_REFUSED = re.compile(r"no password supplied|authentication failed|does not exist|pg_hba\.conf")
_FINAL = {"22": DataError, "23": DataError, "28": ConfigError, "3D": ConfigError,
          "3F": ConfigError, "42": ConfigError, "0A": ConfigError}  # fmt: skip
"""Classes of SQLSTATE that a retry meets again: data, constraints, rights, names."""

_log = logging.getLogger(__name__)


class PostgresSink:
    """The tables of one schema, the first of the connection's search path.

    Args:
        address: libpq's, without a password.
    """

    def __init__(self, address: str) -> None:
        try:
            given = conninfo_to_dict(address)
        except psycopg.ProgrammingError:  # its message may repeat a password
            raise ConfigError("the sink's address is not one of libpq's: postgresql://…") from None
        if any("password" in name for name in given):
            raise ConfigError(
                "a sink's address must not hold a password, others can read it: use ~/.pgpass, "
                "PGPASSFILE, PGSERVICEFILE or PGPASSWORD"
            )
        options: dict[str, Any] = {**_DEFAULTS, **given, "client_encoding": "utf-8"}
        with _known_errors("connecting"):
            self._connection = psycopg.connect(**options, autocommit=True)

    def close(self) -> None:
        """Close the connection; its lock goes with it."""
        self._connection.close()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until nobody else loads into the schema, and create what is not there."""
        with _known_errors("locking"):
            # The role's own limits are meant for questions.
            self._connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
            # A server that builds an index for a client which was killed would go on.
            self._connection.execute("SET client_connection_check_interval = '5s'")
            if not self._advise("pg_try_advisory_lock"):
                _log.info("waiting for another load to end")
                self._advise("pg_advisory_lock")
            ensure_tables(self._connection)
        try:
            yield
        finally:
            if not self._connection.closed:
                with _known_errors("unlocking"):
                    self._advise("pg_advisory_unlock")

    def loaded(self) -> dict[str, str]:
        """The ``run_id`` that is loaded for each day."""
        with _known_errors("reading recommendations_loads"):
            rows = self._connection.execute("SELECT ds::text, run_id FROM recommendations_loads")
            return dict(rows.fetchall())

    def load(self, run: RunFiles) -> None:
        """Copy a run into a table of its own, give it its key, and let it be the day's partition.

        Raises:
            DataError: a row breaks a constraint; the message is PostgreSQL's.
            UnavailableError: the database went away, or an older reader holds the table for too long.
        """
        constants = run.constants()
        name = f"recommendations_{run.day.replace('-', '')}_{uuid.uuid4().hex[:8]}"
        with _known_errors(f"loading run {run.run_id}"):
            self._connection.execute(create_loading(run, constants))
            self._copy(run, [each for each in COLUMNS.names if each not in constants])
            self._connection.execute(finish_loading(name, constants))
            self._connection.execute("VACUUM (FREEZE, ANALYZE) recommendations_loading")
            self._swap(run.day, name, run)

    def withdraw(self, day: str) -> None:
        """Drop a day's partition; the newest of the other days is the latest."""
        with _known_errors(f"withdrawing {day}"):
            self._swap(day, None, None)

    def forget(self, users: list[str]) -> int:
        """Delete users' rows of all days, and what deleted rows leave in the files."""
        with _known_errors("forgetting"):
            query = b"DELETE FROM recommendations WHERE user_id = ANY(%s)"
            with self._connection.transaction():
                n = self._connection.execute(query, (users,)).rowcount
                self._connection.execute(
                    b"UPDATE recommendations_loads AS l SET n_rows ="
                    b" (SELECT count(*) FROM recommendations AS r WHERE r.ds = l.ds)"
                )
            self._connection.execute(b"VACUUM recommendations")
        return n

    def user_rows(self, user_id: str, day: str | None, k: int) -> list[dict[str, Any]]:
        """A user's first K rows of a day; see ``Tables``."""
        # Two texts, as each is planned once.
        source, when = ("_latest", "") if day is None else ("", "ds = %(day)s AND ")
        query = (
            "SELECT ds::text, rank, item_id, score, reason, why, model_version, run_id "
            f"FROM recommendations{source} WHERE {when}user_id = %(user_id)s AND rank <= %(k)s "
            "ORDER BY rank"
        )
        with _known_errors("reading recommendations"):
            cursor = self._connection.cursor(row_factory=dict_row, binary=True)
            values = {"user_id": user_id, "day": day, "k": k}
            return cursor.execute(query.encode(), values, prepare=True).fetchall()

    def _advise(self, function: str) -> Any:
        """Call a function of advisory locks on this schema's own."""
        query = f"SELECT {function}(%s, hashtext(current_schema()))"
        row = self._connection.execute(query.encode(), (_LOCK,)).fetchone()
        return row and row[0]

    def _copy(self, run: RunFiles, columns: list[str]) -> None:
        names = SQL(", ").join(map(Identifier, columns))
        command = SQL("COPY recommendations_loading ({}) FROM STDIN (FORMAT csv)").format(names)
        options = csv.WriteOptions(include_header=False)
        with self._connection.cursor() as cursor:
            with cursor.copy(command) as stream:
                for batch in run.batches(columns):
                    text = pa.BufferOutputStream()
                    csv.write_csv(batch, text, options)
                    stream.write(memoryview(text.getvalue()))
            assert cursor.rowcount == run.n_rows

    def _swap(self, day: str, name: str | None, run: RunFiles | None) -> None:
        for _ in range(_SWAP_TRIES):
            try:
                with self._connection.transaction():
                    self._connection.execute(f"SET LOCAL lock_timeout = {_SWAP_WAIT_MS}".encode())
                    swap(self._connection, day, name, run)
                return
            except psycopg.errors.LockNotAvailable:
                time.sleep(1)
        raise UnavailableError(
            f"somebody's transaction read recommendations all the time for {_SWAP_TRIES} tries, so "
            f"{day} stays what it was; pg_stat_activity tells whose"
        )


@contextmanager
def _known_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        message = " ".join(str(error).split())
        kind: type[RecboleLlmError] = _FINAL.get((error.sqlstate or "")[:2], UnavailableError)
        if error.sqlstate is None and _REFUSED.search(message):  # libpq tells no code at connecting
            kind = ConfigError
        raise kind(f"PostgreSQL, {doing}: {message}") from None
