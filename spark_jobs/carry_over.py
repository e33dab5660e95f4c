"""Whose recommendations of an earlier day stand again, so that a night ranks only what changed.

A list depends on the history, on the model and on what may be recommended. Where the model and the
settings are the same and nothing was added to what may be recommended, a user keeps the list unless
the history changed or an item of the list may no longer be recommended: of the others, the best of
a smaller set are the same.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from recbole_llm.lists.reasons import REASON_MODEL

_IN_TABLE = ["user_id", "rank", "item_id", "score", "reason", "why"]
_IN_LIST = ["item_id", "score", "why"]


@dataclass(frozen=True)
class Base:
    """The published run that may be carried over, made by the same model and settings."""

    table: str
    """Folder of its table, K rows a user, a user's rows together and by rank."""
    sequences: str
    """Folder of the sequences that it ranked."""
    withdrawn: list[str]
    """Items that it could recommend and this day cannot."""


@dataclass(frozen=True)
class Carried:
    """Lists that stand again."""

    table: pa.Table
    """``item_id``, ``score`` and ``why`` of the base's users in the range, K rows each."""
    starts: NDArray[np.int64]
    """(users,) where in it a user's K rows begin; -1 for those to be ranked anew."""


def find_carried(
    base: Base | None, users: pa.ChunkedArray, hashes: pa.ChunkedArray, k: int
) -> Carried:
    """Find the users whose lists stand again.

    Args:
        base: where from; None carries nobody over.
        users: string, in order.
        hashes: int64 of what their lists depend on, ``state_hash``.
        k: rows a user.
    """
    nobody = np.full(len(users), -1)
    if base is None or not len(users):
        return Carried(pa.table({name: [] for name in _IN_LIST}), nobody)
    between = (pc.field("user_id") >= users[0]) & (pc.field("user_id") <= users[-1])
    table = ds.dataset(base.table).to_table(_IN_TABLE, filter=between).combine_chunks()
    before = ds.dataset(base.sequences).to_table(["user_id", "state_hash"], filter=between)
    lists = table.select(_IN_LIST)
    ranks = table["rank"].to_numpy()
    if len(ranks) % k or (ranks.reshape(-1, k) != np.arange(1, k + 1)).any():
        return Carried(lists, nobody)
    may_stand = pc.and_(
        pc.equal(table["reason"], REASON_MODEL),
        pc.invert(pc.is_in(table["item_id"], value_set=pa.array(base.withdrawn, pa.string()))),
    )
    stands = may_stand.to_numpy().reshape(-1, k).all(axis=1)  # by user of the base
    in_table = _positions(users, table["user_id"].take(np.arange(0, len(ranks), k)))
    in_state = _positions(users, before["user_id"])
    is_same = (in_table >= 0) & (in_state >= 0)
    at = np.flatnonzero(is_same)
    old_hashes, new_hashes = before["state_hash"].to_numpy(), hashes.to_numpy()
    is_same[at] = (old_hashes[in_state[at]] == new_hashes[at]) & stands[in_table[at]]
    return Carried(lists, np.where(is_same, in_table * k, -1))


def _positions(users: pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int64]:
    """Where each user stands, -1 for nowhere."""
    found = pc.fill_null(pc.index_in(users, value_set=among.combine_chunks()), -1)
    positions: NDArray[np.int64] = found.to_numpy().astype(np.int64)
    return positions
