"""A user's rows from the published Parquet files, in the time that one small row group takes.

DuckDB asks the same files anything; for one user it spends more on planning than this on reading.
"""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_llm.errors import ArtifactError
from recbole_llm.json_files import check_record
from recbole_llm.warehouse import Warehouse

_COLUMNS = ["user_id", "rank", "item_id", "score", "reason", "why"]
_DAYS = 8
"""Days whose files stay open."""


@contextmanager
def naming_damaged(path: Path) -> Iterator[None]:
    """Tell a damaged file of a table from an accident of the file system, which has a number.

    Raises:
        ArtifactError: it is no whole Parquet file.
    """
    try:
        yield
    except (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ArtifactError(
            f"{path} is no whole Parquet file: {error}; make its day again, or roll it back"
        ) from None


@contextmanager
def duckdb_over(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB, to read the tables of a folder.

    Raises:
        ArtifactError: they cannot be read.
    """
    try:
        with duckdb.connect() as database:
            yield database
    except duckdb.Error as error:
        raise ArtifactError(
            f"the tables in {folder} cannot be read: {error}; make their day again"
        ) from None


class ParquetTables:
    """The published files, open, with the users of each row group; see ``Tables``.

    A service keeps it: every question goes to the run that the pointer names then.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._pointer: tuple[int, ...] = ()
        self._runs: dict[str | None, tuple[dict[str, Any], list[_File]]] = {}

    def loaded(self) -> dict[str, str]:
        """The ``run_id`` of each published day."""
        return {day: run["run_id"] for day, run in self._warehouse.published_days().items()}

    def user_rows(self, user_id: str, day: str | None, k: int) -> list[dict[str, Any]]:
        """A user's first K rows of a day; see ``Tables``.

        Raises:
            NotFoundError: nothing, or not that day, is published.
        """
        run, files = self._find(day)
        known = {name: run[name] for name in ("ds", "model_version", "run_id")}
        rows = [row for file in files for row in file.rows(user_id) if row["rank"] <= k]
        # Tables of earlier versions do not say why.
        return [
            {"why": None, **row, **known} for row in sorted(rows, key=lambda row: int(row["rank"]))
        ]

    def close(self) -> None:
        """Let go of the files."""
        self._runs.clear()

    def _find(self, day: str | None) -> "tuple[dict[str, Any], list[_File]]":
        """A day's run and its files, looked for again when the pointer has moved."""
        if self._warehouse.published.exists():
            found = self._warehouse.published.stat()
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if mark != self._pointer:
                self._pointer, self._runs = mark, {}
        if day not in self._runs:
            if len(self._runs) == _DAYS:
                self._runs.clear()
            run = self._warehouse.published_run(day)
            check_record(run, {"model_version": str}, self._warehouse.published)
            paths = sorted((self._warehouse.root / run["path"]).glob("*.parquet"))
            self._runs[day] = (run, [_File(path) for path in paths])
        return self._runs[day]


class _File:
    """A file whose rows are sorted by user."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming_damaged(path):
            self._file = pq.ParquetFile(path, memory_map=True)
            names = self._file.schema.names
            told = [
                self._file.metadata.row_group(group).column(names.index("user_id")).statistics
                for group in range(self._file.num_row_groups)
                if "user_id" in names
            ]
            # The writer keeps bounds whole, and their order, of bytes, is that of Python's strings.
            bounds = [(each.min, each.max) for each in told if each and each.has_min_max]
        is_whole = len(bounds) == self._file.num_row_groups and set(_COLUMNS[:-1]) <= set(names)
        if not is_whole or not all(isinstance(each, str) for pair in bounds for each in pair):
            raise ArtifactError(f"{path} is no table of recommendations; publish its day again")
        self._first = [first for first, _ in bounds]
        self._last = [last for _, last in bounds]

    def rows(self, user_id: str) -> list[dict[str, Any]]:
        """A user's rows: rank, item_id, score, reason, why."""
        rows: list[dict[str, Any]] = []
        group = bisect_left(self._last, user_id)
        while group < len(self._last) and self._first[group] <= user_id:
            with naming_damaged(self._path):
                table = self._file.read_row_group(group, _COLUMNS, use_threads=False)
                mine = table.filter(pc.equal(table["user_id"], user_id))
                rows += mine.drop_columns(["user_id"]).to_pylist()
            group += 1
        return rows
