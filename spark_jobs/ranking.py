"""What a Spark worker does: load the model once, rank the users of one file of sequences.

A worker reads its file of the state and writes its file of the table by itself, column by column;
through Spark's rows this would take longer than the ranking. A file is complete before it gets its
name, and it depends on its input alone, so a task that is tried again writes the same.

This stands in an importable module, not in the job's script, so that a worker keeps the loaded
model from task to task instead of unpickling the loader with each.
"""

import datetime
import functools
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.core.broadcast import Broadcast

from recbole_llm.lists.catalogue import Catalogue
from recbole_llm.lists.ranker import COLUMNS, OF_USERS, ListSettings, Ranker, rows_from
from recbole_llm.lists.reasons import REASON_MODEL
from recbole_llm.scoring import Scorer, load_scorer
from spark_jobs.carry_over import Base, find_carried
from spark_jobs.schemas import RECOMMENDATIONS_ARROW, SCORED_FILES_ARROW

_REPEATED = [name for name in RECOMMENDATIONS_ARROW.names if name not in ("score", "why")]
_MORE_CARRIED = 8
"""Times the users of a batch that may be read at once where most lists stand again."""
USERS_TO_READ = 500
"""Users of a row group of the table, which a lookup reads for one of them."""


@dataclass(frozen=True)
class RankingTask:
    """What a worker needs to know; the artifact travels as a path."""

    artifact: str
    output: str
    """Folder of the table."""
    day: datetime.date
    run_id: str
    model_version: str
    k: int
    settings: ListSettings
    users_per_batch: int
    generated_at: datetime.datetime
    catalogue: Broadcast[Catalogue]
    base: Broadcast[Base | None]
    """The run to carry over from."""


def score_files(batches: Iterable[pa.RecordBatch], task: RankingTask) -> Iterator[pa.RecordBatch]:
    """Rank the users of whole files, for ``mapInArrow``.

    Args:
        batches: column ``path`` string, files of sequences sorted by user.
    Yields:
        One row a file, schema ``SCORED_FILES_ARROW``.
    """
    for batch in batches:
        rows = [score_file(Path(path), task) for path in batch.column("path").to_pylist()]
        yield pa.RecordBatch.from_pylist(rows, schema=SCORED_FILES_ARROW)


def score_file(path: Path, task: RankingTask) -> dict[str, int | str]:
    """Rank the users of one file and write theirs, ``<name>.parquet``; see ``score_files``."""
    ranker = _ranker(task)
    file = pq.ParquetFile(path)
    everybody = file.read(["user_id", "state_hash"]).combine_chunks()
    carried = find_carried(task.base.value, everybody["user_id"], everybody["state_hash"], task.k)
    n_carried_users = int((carried.starts >= 0).sum())
    n_done = n_unknown = n_short = 0
    final = Path(task.output) / f"{path.name.partition('.')[0]}.parquet"
    staging = final.with_name(f".{final.name}-{uuid.uuid4().hex[:8]}")
    with open_table(staging) as writer:
        for users in file.iter_batches(
            _batch_size(task, everybody.num_rows, n_carried_users), columns=OF_USERS
        ):
            starts = carried.starts[n_done : n_done + len(users)]
            n_done += len(users)
            anew = np.flatnonzero(starts < 0)
            lists, unknown = ranker.lists(users.take(anew), task.k)
            n_unknown += unknown
            n_short += len(lists.short)
            listed = np.delete(np.arange(len(users)), anew[[*lists.short]])
            rows = lists.rows
            if len(anew) < len(users):
                rows = _merge(rows, carried.table, starts[listed], task.k)
            table = _table(users["user_id"].take(listed), rows, task)
            writer.write_table(table, USERS_TO_READ * task.k)
    os.replace(staging, final)
    return {
        "file": final.name,
        "n_users": n_done,
        "n_short_users": n_short,
        "n_carried_users": n_carried_users,
        "n_unknown_items": n_unknown,
    }


def _batch_size(task: RankingTask, n_users: int, n_carried_users: int) -> int:
    """Users to read at once, so that enough of them are ranked together."""
    n_anew = max(n_users - n_carried_users, 1)
    return int(task.users_per_batch * min(_MORE_CARRIED, max(n_users / n_anew, 1)))


def open_table(path: Path) -> pq.ParquetWriter:
    """A writer of a table's file."""
    return pq.ParquetWriter(path, RECOMMENDATIONS_ARROW, use_dictionary=_REPEATED)


def _merge(rows: pa.Table, before: pa.Table, starts: NDArray[np.int64], k: int) -> pa.Table:
    """Put the lists that stand again among the new ones, in the users' order."""
    stand = starts >= 0
    n_stand = int(stand.sum())
    # The place of each user's list in the two together.
    order = np.empty(len(starts), dtype=np.int64)
    order[stand] = np.arange(n_stand)
    order[~stand] = n_stand + np.arange(len(starts) - n_stand)
    old = before.take(rows_from(starts[stand], k))
    reasons = pa.array([REASON_MODEL], pa.string()).take(pa.array(np.zeros(old.num_rows, int)))
    old = old.append_column("reason", reasons).select(COLUMNS.names)
    return pa.concat_tables([old, rows]).take(rows_from(order * k, k))


def _table(users: pa.Array, rows: pa.Table, task: RankingTask) -> pa.Table:
    """The rows as the table has them."""
    n, k = len(users), task.k
    always = pa.array(np.zeros(n * k, int))

    def repeat(value: object, kind: pa.DataType) -> pa.Array:
        return pa.array([value], kind).take(always)

    columns = {
        "ds": repeat(task.day, pa.date32()),
        "user_id": users.take(pa.array(np.arange(n).repeat(k))),
        "rank": pa.array(np.tile(np.arange(1, k + 1, dtype=np.int16), n)),
        "model_version": repeat(task.model_version, pa.string()),
        "run_id": repeat(task.run_id, pa.string()),
        "generated_at": repeat(task.generated_at, pa.timestamp("us", tz="UTC")),
        **{name: rows[name] for name in COLUMNS.names},
    }
    return pa.table(columns, schema=RECOMMENDATIONS_ARROW)


_rankers: dict[tuple[str, str], Ranker] = {}


def _ranker(task: RankingTask) -> Ranker:
    """The worker's model and catalogue, kept from file to file of one table."""
    key = (task.artifact, task.output)
    if key not in _rankers:
        _rankers.clear()
        scorer, artifact = _scorer(task.artifact), Path(task.artifact)
        _rankers[key] = Ranker(scorer, task.catalogue.value, task.settings, artifact)
    return _rankers[key]


@functools.lru_cache(maxsize=1)
def _scorer(artifact: str) -> Scorer:
    return load_scorer(Path(artifact))
