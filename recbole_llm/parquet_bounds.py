"""Least and greatest values of a Parquet file's row groups, as its footer tells them.

Read by DuckDB: where a damaged footer contradicts itself, pyarrow ends the whole process when it is
asked for a column's statistics (a C++ exception that its binding does not catch).
"""

from pathlib import Path
from typing import NamedTuple

import duckdb

from recbole_llm.errors import ArtifactError


class Bounds(NamedTuple):
    """What a footer tells of a column in one row group; None where it does not."""

    least: str | None
    greatest: str | None
    n_nulls: int | None


def read_bounds(path: Path) -> dict[str, list[Bounds]]:
    """The bounds of each column, row group by row group; values as DuckDB writes them.

    Raises:
        ArtifactError: the file is no Parquet file.
    """
    found: dict[str, list[Bounds]] = {}
    try:
        with duckdb.connect() as database:
            rows = database.execute(
                "SELECT path_in_schema, stats_min_value, stats_max_value, stats_null_count "
                "FROM parquet_metadata($path) ORDER BY row_group_id, column_id",
                {"path": str(path)},
            ).fetchall()
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is no whole Parquet file: {error}; make its day again, or roll it back"
        ) from None
    for column, *bounds in rows:
        found.setdefault(column, []).append(Bounds(*bounds))
    return found
