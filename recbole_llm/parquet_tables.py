"""The published Parquet files, as they lie in the warehouse."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from recbole_llm.errors import ArtifactError
from recbole_llm.json_files import check_record
from recbole_llm.user_files import UserFile
from recbole_llm.warehouse import Warehouse

_COLUMNS = ["user_id", "rank", "item_id", "score", "reason"]
_DAYS = 8
"""Days whose files stay open."""


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
        self._runs: dict[str | None, tuple[dict[str, Any], list[UserFile]]] = {}

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

    def _find(self, day: str | None) -> tuple[dict[str, Any], list[UserFile]]:
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
            self._runs[day] = (run, [UserFile(path, _COLUMNS, ["why"]) for path in paths])
        return self._runs[day]
