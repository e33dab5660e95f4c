"""What users did on a day, held against the lists that they had been given before it.

The figures are RecBole's Hit, NDCG and Recall at the list's length K. The control is the list of
the K items of most events in the state of before, without what the user had met: what the night
would have been without a model.
"""

import datetime
import math
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from recbole_llm.lists.reasons import PERSONAL
from spark_jobs.opinions import is_met


@dataclass(frozen=True)
class Base:
    """A published table and the state that it was made from."""

    lists: DataFrame
    """From ``collect_lists``."""
    sequences: DataFrame | None
    """Schema ``SEQUENCES``; None where the state was deleted after its days."""
    items: DataFrame | None
    """Schema ``ITEMS``, likewise."""
    k: int
    exclude_seen: bool
    max_history: int


def collect_lists(table: DataFrame) -> DataFrame:
    """One row a user: ``user_id``, ``items`` by rank, ``is_fallback``, no row of the model.

    Args:
        table: schema ``RECOMMENDATIONS``.
    """
    return table.groupBy("user_id").agg(
        f.sort_array(f.collect_list(f.struct("rank", "item_id")))["item_id"].alias("items"),
        f.bool_and(~f.col("reason").isin(*PERSONAL)).alias("is_fallback"),
    )


def collect_acts(recent: DataFrame, day: datetime.date) -> DataFrame:
    """One row a user who met something on a day: ``user_id``, ``met``, distinct items.

    Args:
        recent: schema ``RECENT``, of the day's own state.
        day: in UTC.
    """
    on_day = f.to_date(f.timestamp_seconds("timestamp")) == f.lit(day)
    return (
        recent.where(on_day & is_met(f.col("says")))
        .groupBy("user_id")
        .agg(f.collect_set("item_id").alias("met"))
    )


def hold_against(acts: DataFrame, base: Base) -> dict[str, Any]:
    """The figures of ``recbole_llm.figures`` on what users did; None where there is nobody.

    Args:
        acts: from ``collect_acts``.
        base: the lists that users could have seen.
    """
    held = acts.join(base.lists, on="user_id", how="inner")
    met, lists = f.col("met"), f.col("items")
    figures = {"": _held(lists, met, base.k)}
    if base.sequences is not None and base.items is not None:
        # Both sides are unique in user_id; every user of a table has a sequence.
        held = held.join(
            base.sequences.select("user_id", f.col("item_ids").alias("seen")),
            on="user_id", how="left",
        ).crossJoin(f.broadcast(_most_popular(base)))  # fmt: skip
        seen = f.coalesce("seen", f.array().cast("array<string>"))
        first = f.array_except(met, seen)
        unseen = f.array_except("popular", seen) if base.exclude_seen else f.col("popular")
        control = f.slice(unseen, 1, base.k)
        figures |= {
            "first_": _held(lists, first, base.k),
            "control_": _held(control, met, base.k),
            "control_first_": _held(control, first, base.k),
        }
    columns = {
        f"{prefix}{name}": column for prefix, by_name in figures.items()
        for name, column in by_name.items()
    }  # fmt: skip
    rows = held.select("is_fallback", *(column.alias(name) for name, column in columns.items()))
    on_fallback = f.col("is_fallback")
    wanted = {
        **{name: f.avg(name) for name in columns},
        **{f"{name}_stderr": f.stddev(name) / f.sqrt(f.count(name)) for name in ("hit", "ndcg")},
        **{f"fallback_{name}": f.avg(f.when(on_fallback, f.col(name))) for name in ("hit", "ndcg")},
        "n_held_users": f.count("*"),
        "n_fallback_held_users": f.count_if(on_fallback),
    }
    if "first_hit" in columns:
        wanted["n_first_users"] = f.count("first_hit")
    row = rows.agg(*(column.alias(name) for name, column in wanted.items())).first()
    assert row is not None
    return row.asDict()


def _held(lists: Column, relevant: Column, k: int) -> dict[str, Column]:
    """A user's figures; null for one without relevant items.

    Source: RecBole's ``Hit``, ``NDCG``, ``Recall`` in ``recbole.evaluator.metrics``.
    """
    gains = [1 / math.log2(rank + 1) for rank in range(1, k + 1)]
    ideals = f.lit([math.fsum(gains[:n]) for n in range(1, k + 1)])
    n_relevant = f.size(relevant)
    found = f.transform(
        lists, lambda item, at: f.when(f.array_contains(relevant, item), f.get(f.lit(gains), at))
    )
    found = f.filter(found, lambda gain: gain.isNotNull())
    n_found = f.size(found)
    gain = f.aggregate(found, f.lit(0.0), lambda total, each: total + each)
    figures = {
        "hit": (n_found > 0).cast("double"),
        "ndcg": gain / f.get(ideals, f.least(n_relevant, f.lit(k)) - 1),
        "recall": n_found / n_relevant,
    }
    return {name: f.when(n_relevant > 0, column) for name, column in figures.items()}


def _most_popular(base: Base) -> DataFrame:
    """One row: ``popular``, available items by falling number of events, ties by item id."""
    assert base.items is not None
    first = (
        base.items.where("available")
        .select(f.struct((-f.col("n_events")).alias("order"), "item_id").alias("item"))
        .orderBy("item")
        .limit(base.k + base.max_history)  # enough, whatever the user has met
    )
    return first.agg(f.sort_array(f.collect_list("item"))["item_id"].alias("popular"))
