"""A user's rows from the published Parquet files, in the time that one small row group takes.

DuckDB asks the same files anything; for one user it spends more on planning than this on reading.
"""

from bisect import bisect_left
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_llm.warehouse import Warehouse

_COLUMNS = ["user_id", "rank", "item_id", "score", "reason", "why"]
_DAYS = 8
"""Days whose files stay open."""


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
            paths = sorted((self._warehouse.root / run["path"]).glob("*.parquet"))
            self._runs[day] = (run, [_File(path) for path in paths])
        return self._runs[day]


class _File:
    """A file whose rows are sorted by user."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, memory_map=True)
        told = [
            self._file.metadata.row_group(group).column(self._file.schema.names.index("user_id"))
            for group in range(self._file.num_row_groups)
        ]
        # The writer keeps bounds whole, and their order, of bytes, is that of Python's strings.
        self._first = [chunk.statistics.min for chunk in told]
        self._last = [chunk.statistics.max for chunk in told]

    def rows(self, user_id: str) -> list[dict[str, Any]]:
        """A user's rows: rank, item_id, score, reason, why."""
        rows: list[dict[str, Any]] = []
        group = bisect_left(self._last, user_id)
        while group < len(self._last) and self._first[group] <= user_id:
            table = self._file.read_row_group(group, _COLUMNS, use_threads=False)
            mine = table.filter(pc.equal(table["user_id"], user_id))
            rows += mine.drop_columns(["user_id"]).to_pylist()
            group += 1
        return rows
