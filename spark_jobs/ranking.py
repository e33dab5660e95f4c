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
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.core.broadcast import Broadcast

from recbole_llm.errors import DataError
from recbole_llm.scoring import Scorer, load_scorer
from spark_jobs.carry_over import Base, find_carried
from spark_jobs.schemas import (
    REASON_MODEL,
    REASON_POPULAR,
    RECOMMENDATIONS_ARROW,
    SCORED_FILES_ARROW,
)

_REPEATED = [name for name in RECOMMENDATIONS_ARROW.names if name != "score"]
USERS_TO_READ = 500
"""Users of a row group of the table, which a lookup reads for one of them."""


@dataclass(frozen=True)
class Catalogue:
    """What may be recommended on a day, and what stands already; broadcast, for it grows."""

    eligible: list[str]
    """Items of the day's catalogue."""
    popular: list[tuple[str, float]]
    """Items by falling share of all events, enough of them to fill any user's fallback."""
    base: Base | None
    """The run to carry over from."""


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
    exclude_seen: bool
    users_per_batch: int
    generated_at: datetime.datetime
    catalogue: Broadcast[Catalogue]


@dataclass(frozen=True)
class Lists:
    """K rows a user, in the users' order and by rank."""

    item_ids: pa.Array
    """string"""
    scores: pa.Array
    """float32"""
    reasons: pa.Array
    """string"""


class Ranker:
    """A loaded model, and a day's catalogue in its terms."""

    def __init__(self, scorer: Scorer, catalogue: Catalogue) -> None:
        self.scorer = scorer
        self.known = pa.array(scorer.artifact.item_ids, pa.string())
        self.among = scorer.among(catalogue.eligible)
        self.popular = catalogue.popular
        self.base = catalogue.base

    def rows_of(self, histories: pa.ListArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) the model's rows of all histories' items, 0 for unknown, and (N,) whose each is."""
        items = histories.flatten().dictionary_encode()
        of_each = [self.scorer.row(item) for item in items.dictionary.to_pylist()]
        rows = np.array(of_each, dtype=np.int64)[items.indices.to_numpy()]
        return rows, pc.list_parent_indices(histories).to_numpy()


def score_files(batches: Iterable[pa.RecordBatch], task: RankingTask) -> Iterator[pa.RecordBatch]:
    """Rank the users of whole files, for ``mapInArrow``.

    Args:
        batches: column ``path`` string, files of sequences sorted by user.
    Yields:
        One row a file, schema ``SCORED_FILES_ARROW``.
    Raises:
        DataError: some user has fewer than K items left.
    """
    for batch in batches:
        rows = [score_file(Path(path), task) for path in batch.column("path").to_pylist()]
        yield pa.RecordBatch.from_pylist(rows, schema=SCORED_FILES_ARROW)


def score_file(path: Path, task: RankingTask) -> dict[str, int | str]:
    """Rank the users of one file and write theirs, ``<name>.parquet``; see ``score_files``."""
    ranker = _ranker(task)
    file = pq.ParquetFile(path)
    everybody = file.read(["user_id", "history_hash"]).combine_chunks()
    carried = find_carried(ranker.base, everybody["user_id"], everybody["history_hash"], task.k)
    n_done = n_unknown = 0
    final = Path(task.output) / f"{path.name.partition('.')[0]}.parquet"
    staging = final.with_name(f".{final.name}-{uuid.uuid4().hex[:8]}")
    with open_table(staging) as writer:
        for batch in file.iter_batches(task.users_per_batch, columns=["user_id", "item_ids"]):
            users, histories = batch.columns
            starts = carried.starts[n_done : n_done + len(users)]
            n_done += len(users)
            anew = pa.array(np.flatnonzero(starts < 0))
            lists, unknown = _rank(users.take(anew), histories.take(anew), ranker, task)
            n_unknown += unknown
            if len(anew) < len(users):
                lists = _merge(lists, carried.table, starts, task.k)
            writer.write_batch(_rows(users, lists, task), USERS_TO_READ * task.k)
    os.replace(staging, final)
    return {
        "file": final.name,
        "n_users": n_done,
        "n_carried_users": int((carried.starts >= 0).sum()),
        "n_unknown_items": n_unknown,
    }


def open_table(path: Path) -> pq.ParquetWriter:
    """A writer of a table's file."""
    return pq.ParquetWriter(path, RECOMMENDATIONS_ARROW, use_dictionary=_REPEATED)


def _rank(
    users: pa.Array, histories: pa.Array, ranker: Ranker, task: RankingTask
) -> tuple[Lists, int]:
    """Lists, and how many items of the histories the model does not know."""
    k = task.k
    rows, owners = ranker.rows_of(histories)
    is_known = rows > 0
    lengths = np.bincount(owners[is_known], minlength=len(users))
    ranked, scores = ranker.scorer.rank(rows[is_known], lengths, k, task.exclude_seen, ranker.among)
    items = ranker.known.take(pa.array(np.maximum(ranked.reshape(-1) - 1, 0)))
    reasons = pc.if_else(pa.array((lengths > 0).repeat(k)), REASON_MODEL, REASON_POPULAR)
    without = np.flatnonzero(lengths == 0)
    if len(without):
        filled = np.array(items.to_pylist(), dtype=object).reshape(-1, k)
        for user in without.tolist():
            seen = histories[user].as_py() if task.exclude_seen else []
            best = popular_items(users[user].as_py(), seen, ranker.popular, k)
            filled[user] = [item for item, _ in best]
            scores[user] = [share for _, share in best]
        items = pa.array(filled.reshape(-1), pa.string())
    return Lists(items, pa.array(scores.reshape(-1)), reasons), int((~is_known).sum())


def _merge(lists: Lists, before: pa.Table, starts: NDArray[np.int64], k: int) -> Lists:
    """Put the lists that stand again among the new ones, in the users' order."""
    stand = starts >= 0
    n_stand = int(stand.sum())
    # The place of each user's list in the two together.
    order = np.empty(len(starts), dtype=np.int64)
    order[stand] = np.arange(n_stand)
    order[~stand] = n_stand + np.arange(len(starts) - n_stand)
    old = before.take(_rows_from(starts[stand], k))
    rows = _rows_from(order * k, k)
    reasons = pa.array([REASON_MODEL], pa.string()).take(pa.array(np.zeros(old.num_rows, int)))
    return Lists(
        pa.concat_arrays([*old["item_id"].chunks, lists.item_ids]).take(rows),
        pa.concat_arrays([*old["score"].chunks, lists.scores]).take(rows),
        pa.concat_arrays([reasons, lists.reasons]).take(rows),
    )


def _rows_from(starts: NDArray[np.int64], k: int) -> pa.Array:
    return pa.array((starts[:, None] + np.arange(k)).reshape(-1))


def _rows(users: pa.Array, lists: Lists, task: RankingTask) -> pa.RecordBatch:
    n, k = len(users), task.k
    always = pa.array(np.zeros(n * k, int))

    def repeat(value: object, kind: pa.DataType) -> pa.Array:
        return pa.array([value], kind).take(always)

    return pa.RecordBatch.from_arrays(
        [
            repeat(task.day, pa.date32()),
            users.take(pa.array(np.arange(n).repeat(k))),
            pa.array(np.tile(np.arange(1, k + 1, dtype=np.int16), n)),
            lists.item_ids,
            lists.scores,
            lists.reasons,
            repeat(task.model_version, pa.string()),
            repeat(task.run_id, pa.string()),
            repeat(task.generated_at, pa.timestamp("us", tz="UTC")),
        ],
        schema=RECOMMENDATIONS_ARROW,
    )


def popular_items(
    user: str, seen: Iterable[str], popular: list[tuple[str, float]], k: int
) -> list[tuple[str, float]]:
    """The first ``k`` popular items that the user has not seen.

    Raises:
        DataError: there are fewer.
    """
    seen_ids = set(seen)
    left = [pair for pair in popular if pair[0] not in seen_ids][:k]
    if len(left) < k:
        raise DataError(
            f"user {user!r} has {len(left)} popular items left, k={k} were asked for; lower k or "
            "allow repeats"
        )
    return left


_rankers: dict[tuple[str, str], Ranker] = {}


def _ranker(task: RankingTask) -> Ranker:
    """The worker's model and catalogue, kept from file to file of one table."""
    key = (task.artifact, task.output)
    if key not in _rankers:
        _rankers.clear()
        _rankers[key] = Ranker(_scorer(task.artifact), task.catalogue.value)
    return _rankers[key]


@functools.lru_cache(maxsize=1)
def _scorer(artifact: str) -> Scorer:
    return load_scorer(Path(artifact))
