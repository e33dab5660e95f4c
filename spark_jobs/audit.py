"""Hold a written table against the state that it was made from, file by file on the workers.

A file of the table has the users of the file of sequences with its name, so nothing is shuffled. The
audit reads what was written, and shares nothing with what wrote it but the rules.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from recbole_llm.lists.reasons import (
    OF_SOURCES,
    PERSONAL,
    REASON_MODEL,
    REASON_REPEAT,
    REASON_UNCAPPED,
)
from spark_jobs.job import run_each
from spark_jobs.schemas import RECOMMENDATIONS_ARROW

_REASONS = [*OF_SOURCES, REASON_UNCAPPED, REASON_REPEAT]
_WITHIN_CAP = [_REASONS.index(reason) for reason in OF_SOURCES]


@dataclass(frozen=True)
class Promise:
    """What a table should hold to."""

    items: str
    """Folder of the day's ``items``."""
    k: int
    exclude_seen: bool
    max_per_category: int
    markets: list[str]
    """The first is that of users whose events name none; none: there is one market."""
    explain_ranks: int
    """First ranks of a list that may say why."""
    labels: dict[str, Any]
    """What ``ds``, ``run_id`` and ``model_version`` are in every row."""


@dataclass(frozen=True)
class Audit:
    """What stands in a run's files; every ``bad_`` count must be 0."""

    n_rows: int
    n_users: int
    n_fallback_users: int
    """Users in the table without one row of the model."""
    n_short_users: int
    """Active users without a list, for whom fewer than K items are left."""
    n_filled_rows: int
    """Rows that are not the model's."""
    bad_absent_users: int
    """Active users without a list for whom enough items are left."""
    bad_stranger_users: int
    """Users in the table who are not active."""
    bad_rank_users: int
    """Users whose ranks are not exactly 1..K."""
    bad_repeat_users: int
    """Users with an item twice."""
    bad_score_users: int
    """Users with a score that is not finite, or that rises with the rank."""
    bad_seen_users: int
    """Users who are recommended what they have met, in a row that does not say ``repeat``."""
    bad_blocked_users: int
    """Users who are recommended what they do not want."""
    bad_prerequisite_users: int
    """Users who are recommended what requires something that they have not met."""
    bad_category_users: int
    """Users with too many items of one category, in rows that do not say ``uncapped``."""
    bad_reason_users: int
    """Users with more or fewer rows that say ``uncapped`` or ``repeat`` than the rules make needful."""
    bad_unavailable_item_rows: int
    """Rows whose item is not in the day's catalogue, or not available."""
    bad_market_rows: int
    """Rows whose item may not be recommended in the user's market."""
    bad_label_rows: int
    """Rows of another day, run or model, or with a reason that there is not."""
    bad_why_rows: int
    """Rows that say why, and are not the model's or not of the ranks that should."""


_COUNTS = pa.schema([(field.name, pa.int64()) for field in fields(Audit)])


def audit_run(spark: SparkSession, table: Path, sequences: Path, promise: Promise) -> Audit:
    """Audit the files of a table.

    Args:
        table: folder of schema ``RECOMMENDATIONS``.
        sequences: folder of schema ``SEQUENCES``, one row an active user.
        promise: what they should hold to.
    """
    tables, states = _by_name(table), _by_name(sequences)
    names = sorted(tables.keys() | states.keys())
    rows = [(tables.get(name), states.get(name)) for name in names]
    work = functools.partial(_audit_files, promise=promise)
    columns = "table string, sequences string"
    audited = run_each(spark, rows, columns, work, from_arrow_schema(_COUNTS))
    return Audit(**{name: sum(row[name] for row in audited) for name in _COUNTS.names})


def _by_name(folder: Path) -> dict[str, str]:
    return {path.name.partition(".")[0]: str(path) for path in folder.glob("[!.]*.parquet")}


def _audit_files(batches: Iterable[pa.RecordBatch], promise: Promise) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        counts = [audit_file(row["table"], row["sequences"], promise) for row in batch.to_pylist()]
        yield pa.RecordBatch.from_pylist(counts, schema=_COUNTS)


def audit_file(table: str | None, sequences: str | None, promise: Promise) -> dict[str, int]:
    """Audit one file of a table; either may be absent.

    Returns:
        The fields of ``Audit``, for this file.
    """
    columns = ["user_id", "item_ids", "blocked_ids", "market"]
    state = pq.read_table(sequences, columns=columns) if sequences else _NO_STATE
    rows = pq.read_table(table) if table else RECOMMENDATIONS_ARROW.empty_table()
    users = state["user_id"].combine_chunks()
    counts = _count_rows(rows, promise)
    who = _index(rows["user_id"], users)
    counts["bad_stranger_users"] = pc.count_distinct(rows["user_id"].filter(who < 0)).as_py()
    rows, who = rows.filter(who >= 0), who[who >= 0]
    order = np.lexsort((rows["rank"].to_numpy(), who))
    rows, who = rows.take(order), who[order]
    items = rows["item_id"].combine_chunks().dictionary_encode()
    item, found = items.indices.to_numpy(), items.dictionary
    reason = _index(rows["reason"], pa.array(_REASONS))

    def users_of(is_bad: NDArray[np.bool_]) -> int:
        return len(np.unique(who[is_bad]))

    n_of = np.bincount(who, minlength=len(users))
    place = np.arange(len(who)) - (n_of.cumsum() - n_of)[who]
    is_bad_rank = (rows["rank"].to_numpy() != place + 1) | (n_of[who] != promise.k)
    score = rows["score"].to_numpy()
    is_bad_score = ~np.isfinite(score)
    is_bad_score[1:] |= (score[1:] > score[:-1]) & (place[1:] > 0)
    pair = who * (len(found) + 1) + item
    first = np.unique(pair, return_index=True)[1]
    is_again = np.ones(len(pair), dtype=bool)
    is_again[first] = False
    is_seen = np.isin(pair, _pairs(state["item_ids"], found))
    has_other_reason = reason != _REASONS.index(REASON_REPEAT)
    is_personal = np.isin(reason, [_REASONS.index(each) for each in PERSONAL])
    counts |= {
        "n_users": int((n_of > 0).sum()),
        "n_fallback_users": int((n_of > 0).sum()) - users_of(is_personal),
        "n_filled_rows": int((~is_personal).sum()),
        "bad_rank_users": users_of(is_bad_rank),
        "bad_repeat_users": users_of(is_again),
        "bad_score_users": users_of(is_bad_score),
        "bad_seen_users": users_of(is_seen & has_other_reason) if promise.exclude_seen else 0,
        "bad_blocked_users": users_of(np.isin(pair, _pairs(state["blocked_ids"], found))),
        **_count_by_catalogue(who, item, reason, found, state, promise),
    }
    counts["bad_absent_users"] = int((n_of == 0).sum()) - counts["n_short_users"]
    return counts


_ITEMS_READ = pa.schema(
    [
        ("item_id", pa.string()),
        ("category", pa.string()),
        ("available", pa.bool_()),
        ("markets", pa.list_(pa.string())),
        ("requires", pa.list_(pa.string())),
    ]
)
"""Of the day's items; a state of before a column was there has nulls in it."""
_NO_STATE = pa.table(
    {
        "user_id": pa.array([], pa.string()),
        "item_ids": pa.array([], pa.list_(pa.string())),
        "blocked_ids": pa.array([], pa.list_(pa.string())),
        "market": pa.array([], pa.string()),
    }
)
"""Of a file of the table that no file of sequences belongs to."""


def _count_rows(rows: pa.Table, promise: Promise) -> dict[str, int]:
    is_other = _index(rows["reason"], pa.array(_REASONS)) < 0
    for name, value in promise.labels.items():
        expected = pa.scalar(value, rows.schema.field(name).type)
        is_other |= ~pc.fill_null(pc.equal(rows[name], expected), False).to_numpy()
    says_why = rows["why"].is_valid().to_numpy()
    may_say = (rows["rank"].to_numpy() <= promise.explain_ranks) & pc.equal(
        rows["reason"], REASON_MODEL
    ).to_numpy()
    return {
        "n_rows": len(rows),
        "bad_label_rows": int(is_other.sum()),
        "bad_why_rows": int((says_why & ~may_say).sum()),
    }


@dataclass(frozen=True)
class _Items:
    """The day's catalogue, by place."""

    item_ids: pa.Array
    is_available: NDArray[np.bool_]
    categories: NDArray[np.int64]
    """Numbers from 0 on; -1 for none."""
    is_sold: NDArray[np.bool_]
    """(markets, items)"""
    needing: NDArray[np.int64]
    """(P,) items that require another, rising, one time for each that they require."""
    needed: NDArray[np.int64]
    """(P,) what each requires, by its number."""
    needed_ids: pa.Array
    """By those numbers."""

    def find(self, lists: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the items of lists that are in the catalogue, and which list each is in."""
        together = lists.combine_chunks()
        places = _index(together.flatten(), self.item_ids)
        owners = pc.list_parent_indices(together).to_numpy()
        return places[places >= 0], owners[places >= 0]


def _count_by_catalogue(
    who: NDArray[np.int64],
    item: NDArray[np.int64],
    reason: NDArray[np.int64],
    found: pa.Array,
    state: pa.Table,
    promise: Promise,
) -> dict[str, int]:
    """What the day's catalogue says of rows; ``item`` and ``found`` are codes and what they mean."""
    catalogue = _read_items(promise.items, tuple(promise.markets))
    place = _index(found, catalogue.item_ids)
    is_there, known = (place >= 0)[item], np.maximum(place, 0)[item]
    market = np.zeros(len(state), dtype=np.int64)
    if promise.markets:
        named = pc.fill_null(state["market"], promise.markets[0])
        market = _index(named, pa.array(promise.markets))
    bad_category = 0
    if promise.max_per_category:
        category = catalogue.categories[known]
        counted = is_there & (category >= 0) & np.isin(reason, _WITHIN_CAP)
        n_categories = catalogue.categories.max(initial=0) + 1
        pair, n = np.unique(who[counted] * n_categories + category[counted], return_counts=True)
        bad_category = len(np.unique(pair[n > promise.max_per_category] // n_categories))
    return {
        "bad_prerequisite_users": _count_unready(who[is_there], known[is_there], catalogue, state),
        "bad_unavailable_item_rows": int((~catalogue.is_available[known] | ~is_there).sum()),
        "bad_market_rows": int((~catalogue.is_sold[market[who], known] & is_there).sum()),
        "bad_category_users": bad_category,
        "bad_reason_users": _count_needless(who, reason, market, catalogue, state, promise),
        "n_short_users": _count_short(who, market, catalogue, state, promise),
    }


def _count_unready(
    who: NDArray[np.int64], place: NDArray[np.int64], catalogue: _Items, state: pa.Table
) -> int:
    """Users of rows whose item, by its place in the catalogue, requires what they have not met."""
    n_needed = np.bincount(catalogue.needing, minlength=len(catalogue.item_ids))
    first = n_needed.cumsum() - n_needed
    n_of_row = n_needed[place]
    row = np.arange(len(place)).repeat(n_of_row)
    number = np.arange(len(row)) - (n_of_row.cumsum() - n_of_row)[row]  # from 0 on in each row
    needed = catalogue.needed[first[place[row]] + number]
    pair = who[row] * (len(catalogue.needed_ids) + 1) + needed
    lacks = ~np.isin(pair, _pairs(state["item_ids"], catalogue.needed_ids))
    return len(np.unique(who[row[lacks]]))


def _count_needless(
    who: NDArray[np.int64],
    reason: NDArray[np.int64],
    market: NDArray[np.int64],
    catalogue: _Items,
    state: pa.Table,
    promise: Promise,
) -> int:
    """Users whose lists break a rule more or less often than what is left makes them; ``who`` rises."""
    n_repeats, n_uncapped = (
        np.bincount(who[reason == _REASONS.index(each)], minlength=len(state))
        for each in (REASON_REPEAT, REASON_UNCAPPED)
    )
    users = np.flatnonzero(n_repeats + n_uncapped)
    out = ["blocked_ids"] + ["item_ids"] * promise.exclude_seen
    bad = 0
    for user, is_left in zip(users, _left_for(users, out, market, catalogue, state), strict=True):
        n_left = n_within = int(is_left.sum())
        if promise.max_per_category:
            category = catalogue.categories[is_left]
            of_each = np.bincount(category[category >= 0])
            n_within = int(np.minimum(of_each, promise.max_per_category).sum())
            n_within += int((category < 0).sum())
        expected = max(0, promise.k - n_left), max(0, promise.k - n_within)
        bad += (n_repeats[user], n_repeats[user] + n_uncapped[user]) != expected
    return bad


def _count_short(
    who: NDArray[np.int64],
    market: NDArray[np.int64],
    catalogue: _Items,
    state: pa.Table,
    promise: Promise,
) -> int:
    """Users without a row who cannot have a list."""
    n_here = (catalogue.is_sold & catalogue.is_available).sum(1)
    n_out = pc.list_value_length(state["blocked_ids"]).to_numpy() + len(catalogue.needing)
    may_be_short = n_here[market] - n_out < promise.k
    may_be_short[who] = False
    users = np.flatnonzero(may_be_short)
    left = _left_for(users, ["blocked_ids"], market, catalogue, state)
    return sum(int(is_left.sum()) < promise.k for is_left in left)


def _left_for(
    users: NDArray[np.int64],
    out: list[str],
    market: NDArray[np.int64],
    catalogue: _Items,
    state: pa.Table,
) -> Iterator[NDArray[np.bool_]]:
    """For each of some users, by their places in the state, the items that may stand in the list.

    Args:
        out: the state's columns of items that may not.
    """
    lists = state.take(pa.array(users))
    found = [catalogue.find(lists[name]) for name in out]
    places, owners = (np.concatenate(each) for each in zip(*found, strict=True))
    width = len(catalogue.needed_ids) + 1
    met = _pairs(lists["item_ids"], catalogue.needed_ids)
    for number, user in enumerate(users):
        is_left = catalogue.is_available & catalogue.is_sold[market[user]]
        is_left[places[owners == number]] = False
        is_met = np.isin(catalogue.needed, met[met // width == number] % width)
        is_left[catalogue.needing[~is_met]] = False
        yield is_left


@functools.lru_cache(maxsize=1)
def _read_items(folder: str, markets: tuple[str, ...]) -> _Items:
    items = pq.read_table(folder, schema=_ITEMS_READ).combine_chunks()
    category = pc.if_else(pc.equal(items["category"], ""), None, items["category"])
    codes = category.combine_chunks().dictionary_encode().indices.fill_null(-1)
    sold_in = items["markets"].combine_chunks()
    is_sold = np.full((max(len(markets), 1), len(items)), not markets)
    is_sold[:, pc.list_value_length(sold_in).to_numpy() == 0] = True
    named = _index(sold_in.flatten(), pa.array(markets, pa.string()))
    owners = pc.list_parent_indices(sold_in).to_numpy()
    is_sold[named[named >= 0], owners[named >= 0]] = True
    required = items["requires"].combine_chunks()
    needed = required.flatten().dictionary_encode()
    return _Items(
        items["item_id"].combine_chunks(),
        items["available"].to_numpy(),
        codes.to_numpy().astype(np.int64),
        is_sold,
        pc.list_parent_indices(required).to_numpy().astype(np.int64),
        needed.indices.to_numpy().astype(np.int64),
        needed.dictionary,
    )


def _index(values: pa.ChunkedArray | pa.Array, among: pa.Array) -> NDArray[np.int64]:
    """Where each value stands, -1 for nowhere."""
    places = pc.fill_null(pc.index_in(values, value_set=among), -1)
    found: NDArray[np.int64] = places.to_numpy().astype(np.int64)
    return found


def _pairs(lists: pa.ChunkedArray, found: pa.Array) -> NDArray[np.int64]:
    """(user, item) pairs of the users' lists, for found items, as ``audit_file`` numbers them."""
    together = lists.combine_chunks()
    code = _index(together.flatten(), found)
    owners = pc.list_parent_indices(together).to_numpy()
    pairs: NDArray[np.int64] = (owners * (len(found) + 1) + code)[code >= 0]
    return pairs
