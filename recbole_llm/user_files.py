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
from recbole_llm.parquet_bounds import read_bounds


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
            schema = self._file.schema_arrow
            n_groups = self._file.num_row_groups
        is_whole = set(columns) <= set(schema.names) and schema.field("user_id").type == pa.string()
        # The writer keeps bounds whole, and their order, of bytes, is that of Python's strings.
        told = read_bounds(path).get("user_id", []) if is_whole else []
        bounds = [(each.least, each.greatest) for each in told]
        if not is_whole or len(bounds) != n_groups or any(None in pair for pair in bounds):
            raise ArtifactError(
                f"{path} is no table of users with the columns {list(columns)}; make its day again"
            )
        self._first = [str(first) for first, _ in bounds]
        self._last = [str(last) for _, last in bounds]

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
