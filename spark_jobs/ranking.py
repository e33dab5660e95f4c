"""What a Spark worker does: load the model once, rank batches of users.

This stands in an importable module, not in the job's script, so that a worker keeps the loaded
model from task to task instead of unpickling the loader with each.
"""

import datetime
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.core.broadcast import Broadcast

from recbole_llm.errors import DataError
from recbole_llm.scoring import Scorer, load_scorer
from spark_jobs.schemas import REASON_MODEL, REASON_POPULAR, RECOMMENDATIONS_ARROW


@dataclass(frozen=True)
class Catalogue:
    """What may be recommended on a day; broadcast, for it grows with the items."""

    eligible: list[str]
    """Items of the day's catalogue."""
    popular: list[tuple[str, float]]
    """Items by falling share of all events, enough of them to fill any user's fallback."""


@dataclass(frozen=True)
class RankingTask:
    """What a worker needs to know; the artifact travels as a path."""

    artifact: str
    day: datetime.date
    run_id: str
    model_version: str
    k: int
    exclude_seen: bool
    generated_at: datetime.datetime
    catalogue: Broadcast[Catalogue]


def rank_batches(batches: Iterable[pa.RecordBatch], task: RankingTask) -> Iterator[pa.RecordBatch]:
    """Rank the users of each batch, for ``mapInArrow``.

    Args:
        batches: columns ``user_id`` string and ``item_ids`` list of strings, oldest first.
    Yields:
        K rows a user in the users' order, ranks rising, schema ``RECOMMENDATIONS_ARROW``.
    Raises:
        DataError: some user has fewer than K items left.
    """
    scorer = _scorer(task.artifact)
    catalogue: Catalogue = task.catalogue.value
    for batch in batches:
        users: list[str] = batch.column("user_id").to_pylist()
        if not users:
            continue
        seqs: list[list[str]] = batch.column("item_ids").to_pylist()
        yield _rank(scorer, users, seqs, catalogue, task)


def _rank(
    scorer: Scorer,
    users: list[str],
    seqs: list[list[str]],
    catalogue: Catalogue,
    task: RankingTask,
) -> pa.RecordBatch:
    k = task.k
    top = scorer.top_k(seqs, k, task.exclude_seen, eligible=catalogue.eligible)
    items: list[str] = []
    scores: list[NDArray[np.float32]] = []
    reasons: list[str] = []
    for user, seq, ranked, values in zip(users, seqs, top.item_ids, top.scores, strict=True):
        if ranked:
            items += ranked
            scores.append(values)
            reasons += [REASON_MODEL] * k
        else:
            fallback = popular_items(user, seq if task.exclude_seen else [], catalogue.popular, k)
            items += [item for item, _ in fallback]
            scores.append(np.array([share for _, share in fallback], dtype=np.float32))
            reasons += [REASON_POPULAR] * k
    n = len(users)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([task.day] * (n * k), pa.date32()),
            pa.array(np.repeat(np.array(users, dtype=object), k), pa.string()),
            pa.array(np.tile(np.arange(1, k + 1, dtype=np.int16), n)),
            pa.array(items, pa.string()),
            pa.array(np.concatenate(scores)),
            pa.array(reasons, pa.string()),
            pa.array([task.model_version] * (n * k), pa.string()),
            pa.array([task.run_id] * (n * k), pa.string()),
            pa.array([task.generated_at] * (n * k), pa.timestamp("us", tz="UTC")),
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


@functools.lru_cache(maxsize=1)
def _scorer(artifact: str) -> Scorer:
    return load_scorer(Path(artifact))
