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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pyspark.core.broadcast import Broadcast

from recbole_llm.scoring import Feedback, Pairs, Rules, Scorer, load_scorer, why
from spark_jobs.carry_over import Base, find_carried
from spark_jobs.catalogue import Catalogue, Popular
from spark_jobs.schemas import (
    REASON_MODEL,
    RECOMMENDATIONS_ARROW,
    SCORED_FILES_ARROW,
)

_OF_USERS = [
    "user_id", "item_ids", "blocked_ids", "disliked_ids", "unread_ids", "damped_categories", "market"
]  # fmt: skip
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
    exclude_seen: bool
    max_per_category: int
    dislike_weight: float
    category_damping: float
    explain_ranks: int
    """First ranks of a list that say why."""
    default_market: str
    """Of users whose events name none; empty where there is one market only."""
    users_per_batch: int
    generated_at: datetime.datetime
    catalogue: Broadcast[Catalogue]
    base: Broadcast[Base | None]
    """The run to carry over from."""


@dataclass(frozen=True)
class Lists:
    """K rows a user, in the users' order and by rank."""

    item_ids: pa.Array
    """string"""
    scores: pa.Array
    """float32"""
    reasons: pa.Array
    """string"""
    why: pa.Array
    """string, null where it is not said"""


class Ranker:
    """A loaded model, and a day's catalogue in its terms."""

    def __init__(self, scorer: Scorer, catalogue: Catalogue, task: RankingTask) -> None:
        self.scorer = scorer
        self.known = pa.array(scorer.artifact.item_ids, pa.string())
        artifact = scorer.artifact
        self.names = [
            title or item for title, item in zip(artifact.titles, artifact.item_ids, strict=True)
        ]
        self.catalogue = catalogue
        self._task = task
        self._among = scorer.among(catalogue.items)
        self._rows = np.array([scorer.row(item) for item in catalogue.items], dtype=np.int64)
        self._categories = np.full(scorer.n_items + 1, -1, dtype=np.int64)
        self._categories[self._rows] = catalogue.categories
        self._categories[0] = -1
        self._rules: dict[str, Rules] = {}
        self._popular: dict[str, Popular] = {}

    def rules(self, market: str) -> Rules:
        """What may stand in the lists of a market's users."""
        if market not in self._rules:
            rows = self._rows[self.catalogue.elsewhere[market]]
            self._rules[market] = Rules(
                exclude_seen=self._task.exclude_seen,
                among=self._among,
                banned=torch.from_numpy(rows[rows > 0]) if len(rows) else None,
                categories=self._categories,
                max_per_category=self._task.max_per_category,
                dislike_weight=self._task.dislike_weight,
                category_damping=self._task.category_damping,
            )
        return self._rules[market]

    def popular(self, market: str) -> Popular:
        """What a market's users get where the model has nothing."""
        if market not in self._popular:
            task = self._task
            self._popular[market] = Popular(
                self.catalogue, market, task.k, task.exclude_seen, task.max_per_category,
                task.category_damping,
            )  # fmt: skip
        return self._popular[market]

    def known_of(self, lists: pa.ListArray) -> Pairs:
        """The model's rows of all lists' items that it knows, and whose each is."""
        return _numbered(lists, self.scorer.row)

    def damped(self, lists: pa.ListArray) -> Pairs:
        """The numbers of all lists' categories that are on sale, and whose each is."""
        numbers = {name: place for place, name in enumerate(self.catalogue.category_names, start=1)}
        pairs = _numbered(lists, lambda name: numbers.get(name, 0))
        return Pairs(pairs.owners, pairs.values - 1)


def _numbered(lists: pa.ListArray, number: Callable[[str], int]) -> Pairs:
    """What lists hold by numbers, and whose each is; what has the number 0 is left out."""
    values = lists.flatten().dictionary_encode()
    of_each = [number(value) for value in values.dictionary.to_pylist()]
    numbers = np.array(of_each, dtype=np.int64)[values.indices.to_numpy()]
    owners = pc.list_parent_indices(lists).to_numpy()
    return Pairs(owners[numbers > 0], numbers[numbers > 0])


def score_files(batches: Iterable[pa.RecordBatch], task: RankingTask) -> Iterator[pa.RecordBatch]:
    """Rank the users of whole files, for ``mapInArrow``.

    Args:
        batches: column ``path`` string, files of sequences sorted by user.
    Yields:
        One row a file, schema ``SCORED_FILES_ARROW``.
    Raises:
        DataError: some user has fewer than K items left even with those met before.
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
    n_done = n_unknown = 0
    final = Path(task.output) / f"{path.name.partition('.')[0]}.parquet"
    staging = final.with_name(f".{final.name}-{uuid.uuid4().hex[:8]}")
    with open_table(staging) as writer:
        for users in file.iter_batches(
            _batch_size(task, everybody.num_rows, n_carried_users), columns=_OF_USERS
        ):
            starts = carried.starts[n_done : n_done + len(users)]
            n_done += len(users)
            anew = np.flatnonzero(starts < 0)
            lists, unknown = _rank(users.take(anew), ranker, task)
            n_unknown += unknown
            if len(anew) < len(users):
                lists = _merge(lists, carried.table, starts, task.k)
            writer.write_batch(_rows(users["user_id"], lists, task), USERS_TO_READ * task.k)
    os.replace(staging, final)
    return {
        "file": final.name,
        "n_users": n_done,
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


def _rank(users: pa.RecordBatch, ranker: Ranker, task: RankingTask) -> tuple[Lists, int]:
    """Lists, and how many items of the histories the model does not know."""
    if not task.default_market:
        return _rank_market(users, "", ranker, task)
    markets = pc.fill_null(users["market"], task.default_market).dictionary_encode()
    names, numbers = markets.dictionary.to_pylist(), markets.indices.to_numpy()
    members = [np.flatnonzero(numbers == number) for number in range(len(names))]
    done = [
        _rank_market(users.take(those), market, ranker, task)
        for market, those in zip(names, members, strict=True)
    ]
    parts = [lists for lists, _ in done]
    order = _rows_from(np.argsort(np.concatenate([*members, []])) * task.k, task.k)
    none = pa.array([], pa.string())
    together = Lists(
        pa.concat_arrays([none, *(lists.item_ids for lists in parts)]).take(order),
        pa.concat_arrays([none.cast(pa.float32()), *(lists.scores for lists in parts)]).take(order),
        pa.concat_arrays([none, *(lists.reasons for lists in parts)]).take(order),
        pa.concat_arrays([none, *(lists.why for lists in parts)]).take(order),
    )
    return together, sum(unknown for _, unknown in done)


def _rank_market(
    users: pa.RecordBatch, market: str, ranker: Ranker, task: RankingTask
) -> tuple[Lists, int]:
    """The same for users of one market."""
    k = task.k
    met = ranker.known_of(users["item_ids"])
    unread = ranker.known_of(users["unread_ids"])
    n_rows = ranker.scorer.n_items + 1
    is_read = ~np.isin(met.owners * n_rows + met.values, unread.owners * n_rows + unread.values)
    blocked = ranker.known_of(users["blocked_ids"])
    if task.exclude_seen and not is_read.all():  # what is not read was met all the same
        blocked = blocked.with_(Pairs(met.owners[~is_read], met.values[~is_read]))
    feedback = Feedback(
        blocked, ranker.known_of(users["disliked_ids"]), ranker.damped(users["damped_categories"])
    )
    lengths = np.bincount(met.owners[is_read], minlength=len(users))
    ranked, scores = ranker.scorer.rank(
        met.values[is_read], lengths, k, ranker.rules(market), feedback
    )
    told = _explain(ranker, met.values[is_read], lengths, ranked, task.explain_ranks)
    items = ranker.known.take(pa.array(np.maximum(ranked.reshape(-1) - 1, 0)))
    reasons = pa.array([REASON_MODEL], pa.string()).take(pa.array(np.zeros(len(items), int)))
    if len(short := np.flatnonzero(ranked[:, -1] == 0)):
        filled = np.array(items.to_pylist(), dtype=object).reshape(-1, k)
        why = np.full(filled.shape, REASON_MODEL, dtype=object)
        popular = ranker.popular(market)
        for user, of_user in zip(short.tolist(), users.take(short).to_pylist(), strict=True):
            n = int((ranked[user] > 0).sum())
            more = popular.fill(of_user, filled[user, :n].tolist())
            filled[user, n:] = [item for item, _, _ in more]
            why[user, n:] = [reason for _, _, reason in more]
            scores[user, n:] = [share for _, share, _ in more]
            # A share says nothing beside a score of the model: it stands no higher than the last.
            scores[user] = np.minimum.accumulate(scores[user])
        items, reasons = pa.array(filled.reshape(-1)), pa.array(why.reshape(-1))
    n_unknown = len(users["item_ids"].flatten()) - len(met.values)
    return Lists(items, pa.array(scores.reshape(-1)), reasons, told), n_unknown


def _explain(
    ranker: Ranker,
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    ranked: NDArray[np.int64],
    n_ranks: int,
) -> pa.Array:
    """(B * K,) why the first ranks stand where they stand; null where the model did not rank or no item
    carried the score."""
    said = np.full(ranked.shape, None, dtype=object)
    if n_ranks:
        found = why(ranker.scorer, rows, lengths, ranked[:, :n_ranks])
        said[:, :n_ranks] = [
            [sentence or None for sentence in of_user] for of_user in found.sentences(ranker.names)
        ]
    return pa.array(said.reshape(-1), pa.string())


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
        pa.concat_arrays([*old["why"].chunks, lists.why]).take(rows),
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
            lists.why,
        ],
        schema=RECOMMENDATIONS_ARROW,
    )


_rankers: dict[tuple[str, str], Ranker] = {}


def _ranker(task: RankingTask) -> Ranker:
    """The worker's model and catalogue, kept from file to file of one table."""
    key = (task.artifact, task.output)
    if key not in _rankers:
        _rankers.clear()
        _rankers[key] = Ranker(_scorer(task.artifact), task.catalogue.value, task)
    return _rankers[key]


@functools.lru_cache(maxsize=1)
def _scorer(artifact: str) -> Scorer:
    return load_scorer(Path(artifact))
