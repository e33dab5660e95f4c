"""A Delta table as a sink: each load is a version of it that overwrites one day.

Two loads at once cannot both win: Delta refuses the second, which began from the version before. Files
of days that were replaced or withdrawn, and what a killed load wrote, are deleted by the first sync a
week later (``delta.deletedFileRetentionDuration`` of the table).
"""

import datetime
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from recbole_llm.errors import NotFoundError, UnavailableError
from recbole_llm.sinks.run_files import BATCH_ROWS, COLUMNS, RunFiles

_log = logging.getLogger(__name__)
_LOG_RETENTION = "delta.logRetentionDuration"


class DeltaSink:
    """One Delta table, partitioned by ``ds``.

    Args:
        place: its folder, or an address that ``deltalake`` knows; credentials as it finds them.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._table: DeltaTable | None = None
        self._read: tuple[int, Any, str] | None = None
        """A version, its rows and its newest day."""

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Create the table where there is none; who changes it later is refused."""
        with _known_errors("opening"):
            self._table = DeltaTable.create(
                self._place, COLUMNS, mode="ignore", partition_by=["ds"], name="recommendations"
            )
            there = {field.name for field in self._table.schema().fields}
            new = [field for field in Schema.from_arrow(COLUMNS).fields if field.name not in there]
            if new:  # a table of before
                self._table.alter.add_columns(new)
        yield
        try:
            with _known_errors("deleting old versions' files"):
                self._table.vacuum(dry_run=False)
        except UnavailableError as error:  # what was loaded stands
            _log.warning("%s", error)

    def loaded(self) -> dict[str, str]:
        """The ``run_id`` of each day, told by the statistics of its files."""
        files = pa.table(self._opened().get_add_actions(flatten=True)).to_pylist()
        return {str(file["partition.ds"]): str(file["min.run_id"]) for file in files}

    def load(self, run: RunFiles) -> None:
        """Overwrite the day in a new version, whose ``run_id`` is in the table's history."""
        rows = pa.RecordBatchReader.from_batches(COLUMNS, run.batches(COLUMNS.names))
        with _known_errors(f"loading run {run.run_id}"):
            write_deltalake(
                self._opened(), rows, mode="overwrite", predicate=f"ds = '{run.day}'",
                writer_properties=WriterProperties(max_row_group_size=BATCH_ROWS),
                commit_properties=_named(run.run_id),
            )  # fmt: skip

    def withdraw(self, day: str) -> None:
        """Delete the day in a new version."""
        with _known_errors(f"withdrawing {day}"):
            self._opened().delete(f"ds = '{day}'", commit_properties=_named(f"{day} withdrawn"))

    def forget(self, users: list[str]) -> int:
        """Overwrite the days that have users' rows without them, and delete what older versions held:
        their files, and their logs, which tell each file's least and greatest user."""
        table = self._opened()
        theirs = pc.field("user_id").isin(users)
        with _known_errors("forgetting"):
            dataset = table.to_pyarrow_dataset()
            n = int(dataset.count_rows(filter=theirs))
            for day in dataset.to_table(["ds"], filter=theirs)["ds"].unique().to_pylist():
                rest = dataset.scanner(filter=(pc.field("ds") == day) & ~theirs).to_reader()
                write_deltalake(
                    table, rest, mode="overwrite", predicate=f"ds = '{day}'",
                    writer_properties=WriterProperties(max_row_group_size=BATCH_ROWS),
                    commit_properties=_named(f"{day} forgotten"),
                )  # fmt: skip
            table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
            table.alter.set_table_properties({_LOG_RETENTION: "interval 0 days"})
            table.create_checkpoint()
            table.cleanup_metadata()
            table.alter.set_table_properties({_LOG_RETENTION: "interval 30 days"})
        return n

    def user_rows(self, user_id: str, day: str | None, k: int) -> list[dict[str, Any]]:
        """A user's first K rows of a day in the newest version; see ``Tables``."""
        table = self._opened()
        with _known_errors("reading"):
            table.update_incremental()
            if self._read is None or self._read[0] != table.version():
                self._read = (
                    table.version(),
                    table.to_pyarrow_dataset(),
                    max(self.loaded(), default=""),
                )
        _, dataset, latest = self._read
        ds = day or latest
        if not ds:
            return []
        wanted = (
            (pc.field("ds") == datetime.date.fromisoformat(ds))
            & (pc.field("user_id") == user_id)
            & (pc.field("rank") <= k)
        )
        columns = ["rank", "item_id", "score", "reason", "why", "model_version", "run_id"]
        rows = dataset.to_table(columns, filter=wanted).sort_by("rank").to_pylist()
        return [{"ds": ds, **row} for row in rows]

    def _opened(self) -> DeltaTable:
        if self._table is None:
            with _known_errors("opening"):
                try:
                    self._table = DeltaTable(self._place)
                except TableNotFoundError:
                    raise NotFoundError(f"no Delta table at {self._place}: sync it first") from None
        return self._table


def _named(what: str) -> CommitProperties:
    return CommitProperties(custom_metadata={"run_id": what})


@contextmanager
def _known_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Of rows that break off deltalake makes a bare Exception where it has one processor.
        if not isinstance(error, DeltaError | OSError) and type(error) is not Exception:
            raise
        raise UnavailableError(f"Delta table, {doing}: {' '.join(str(error).split())}") from error
