"""The files of a published run, checked before a sink copies them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recbole_llm.errors import ArtifactError
from recbole_llm.json_files import check_record
from recbole_llm.parquet_bounds import read_bounds
from recbole_llm.recommendations import RECOMMENDATIONS
from recbole_llm.user_files import naming_damaged

COLUMNS = RECOMMENDATIONS
"""Of every sink's table."""

BATCH_ROWS = 40_000


class RunFiles:
    """A published run, its files open: they can be read to the end also when they are deleted.

    Args:
        root: the warehouse's root folder.
        run: the pointer's entry.
    Raises:
        ArtifactError: files are missing, have other columns, or not the rows that were audited.
    """

    def __init__(self, root: Path, run: dict[str, Any]) -> None:
        check_record(run, {"k": int, "n_rows": int}, f"{root}/published.json")
        self.day: str = run["ds"]
        self.run_id: str = run["run_id"]
        self.k: int = run["k"]
        self.n_rows: int = run["n_rows"]
        self._folder = folder = root / run["path"]
        paths = sorted(folder.glob("*.parquet"))
        with naming_damaged(folder):
            self._files = [pq.ParquetFile(path) for path in paths]
        found = sum(file.metadata.num_rows for file in self._files)
        if found != self.n_rows:
            raise ArtifactError(
                f"run {self.run_id} has {found} rows in {len(self._files)} files of {folder}, "
                f"{self.n_rows} were published; publish {self.day} again or roll it back"
            )
        self._bounds = [read_bounds(path) for path in paths]
        for path, file in zip(paths, self._files, strict=True):
            if not file.schema_arrow.equals(COLUMNS):
                raise ArtifactError(
                    f"{path} has the columns {_told(file.schema_arrow)}, expected {_told(COLUMNS)}; "
                    "publish the day again with this version of recbole_llm"
                )

    def constants(self) -> dict[str, Any]:
        """Columns that hold one value in all rows, told by the files' footers."""
        told: dict[str, set[str | None]] = {name: set() for name in COLUMNS.names}
        for bounds in self._bounds:
            for name, values in told.items():
                for each in bounds.get(name, []):
                    # With a null among them, or where nothing is told, they are not of one value.
                    values.update((each.least, each.greatest) if each.n_nulls == 0 else (None,))
        same = [name for name, values in told.items() if len(values) == 1 and None not in values]
        for batch in self.batches(same):
            with naming_damaged(self._folder):
                rows: list[dict[str, Any]] = batch.slice(0, 1).to_pylist()
            return rows[0]
        return {}

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """All rows, file by file, of at most ``BATCH_ROWS``."""
        for file in self._files:
            with naming_damaged(self._folder):
                yield from file.iter_batches(BATCH_ROWS, columns=columns)


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
