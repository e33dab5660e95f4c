"""A user's rows from Parquet files that are sorted by user, in the time that one small row group takes.

DuckDB asks the same files anything; for one user it spends more on planning than this on reading.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_llm.errors import ArtifactError


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


class UserFile:
    """A file whose rows are sorted by user, open, with the users of each row group.

    Args:
        path: the file.
        columns: those that a row has, ``user_id`` among them.
        optional: more columns, which files of earlier versions may lack.
    Raises:
        ArtifactError: it is no Parquet file, or has not these columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> None:
        self._path = path
        self._columns = [*columns, *optional]
        with naming_damaged(path):
            self._file = pq.ParquetFile(path, memory_map=True)
            names = self._file.schema_arrow.names
            told = [
                self._statistics(group)
                for group in range(self._file.num_row_groups)
                if "user_id" in names
            ]
            # The writer keeps bounds whole, and their order, of bytes, is that of Python's strings.
            bounds = [(each.min, each.max) for each in told if each and each.has_min_max]
        is_whole = len(bounds) == self._file.num_row_groups and set(columns) <= set(names)
        if not is_whole or not all(isinstance(each, str) for pair in bounds for each in pair):
            raise ArtifactError(
                f"{path} is no table of users with the columns {list(columns)}; make its day again"
            )
        self._first = [first for first, _ in bounds]
        self._last = [last for _, last in bounds]

    def rows(self, user_id: str) -> list[dict[str, Any]]:
        """A user's rows in the file's order, without ``user_id``."""
        rows: list[dict[str, Any]] = []
        group = bisect_left(self._last, user_id)
        while group < len(self._last) and self._first[group] <= user_id:
            with naming_damaged(self._path):
                table = self._file.read_row_group(group, self._columns, use_threads=False)
                mine = table.filter(pc.equal(table["user_id"], user_id))
                rows += mine.drop_columns(["user_id"]).to_pylist()
            group += 1
        return rows

    def first_users(self, n: int) -> list[str]:
        """The first N users that the file names, in order."""
        found: dict[str, None] = {}
        with naming_damaged(self._path):
            for batch in self._file.iter_batches(n, columns=["user_id"]):
                found.update(dict.fromkeys(batch["user_id"].to_pylist()))
                if len(found) >= n:
                    break
        return list(found)[:n]

    def _statistics(self, group: int) -> Any:
        of_group = self._file.metadata.row_group(group)
        for number in range(of_group.num_columns):
            if of_group.column(number).path_in_schema == "user_id":
                return of_group.column(number).statistics
        return None
