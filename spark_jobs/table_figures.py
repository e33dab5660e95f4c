"""What a published table recommends: spread over the catalogue, likeness to the table of before.

What comes to the driver is the size of the catalogue at most, never of the users.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from recbole_llm.lists.reasons import REASON_MODEL

N_BINS = 1000
"""Of the scores of two tables together; deciles are taken from them, so a rerun gives the same."""
_LEAST_SHARE = 1e-4
"""What an empty bin counts as in the population stability index, which has a logarithm of it."""


@dataclass(frozen=True)
class Scores:
    """Numbers of scores in ``N_BINS`` equal bins from ``least`` to ``most``."""

    least: float
    most: float
    now: NDArray[np.int64]
    before: NDArray[np.int64]


def count_items(table: DataFrame, items: DataFrame) -> pa.Table:
    """Available items: ``item_id``, ``title``, ``n_events``, ``first_seen``, ``n_lists``.

    Args:
        table: schema ``RECOMMENDATIONS``.
        items: schema ``ITEMS``.
    Returns:
        The items of most events first, ties by item id.
    """
    counts = table.groupBy("item_id").agg(f.count("*").alias("n_lists"))
    known = ("item_id", "title", "n_events", "first_seen")
    found = (
        items.where("available")
        .join(counts, on="item_id", how="left")  # both sides are unique in item_id
        .select(*known, f.coalesce("n_lists", f.lit(0)).alias("n_lists"))
        .toArrow()
    )
    return found.sort_by([("n_events", "descending"), ("item_id", "ascending")])


def spread(n_events: NDArray[np.int64], n_lists: NDArray[np.int64]) -> dict[str, Any]:
    """How recommendations spread over the catalogue.

    Args:
        n_events: (V,) of each available item, falling.
        n_lists: (V,) users that it is recommended to.
    Source: coverage and Gini as RecBole's ``ItemCoverage`` and ``GiniIndex``, the items that nobody
        was recommended among them; novelty as mean self-information, doi:10.1073/pnas.1000488107.
    """
    n_items, rows = len(n_lists), n_lists.sum()
    if not rows:
        return {"n_items": n_items}
    places = 2 * np.arange(1, n_items + 1) - n_items - 1
    share = np.maximum(n_events, 1) / max(n_events.sum(), 1)
    return {
        "n_items": n_items,
        "coverage": (n_lists > 0).mean(),
        "gini": (places * np.sort(n_lists)).sum() / (n_items * rows),
        "novelty": (n_lists * -np.log2(share)).sum() / rows,
        "popular_share": n_lists[: -(-n_items // 10)].sum() / rows,
    }


def compare_lists(now: DataFrame, before: DataFrame | None) -> dict[str, Any]:
    """Users of a table, and how their lists differ from those of another.

    Args:
        now: from ``held_out.collect_lists``.
        before: likewise; None for no other.
    """
    wanted = {
        "n_users": f.count_if(f.col("items").isNotNull()),
        "n_rows": f.sum(f.size("items")),
        "fallback_share": f.avg(f.col("is_fallback").cast("double")),
    }
    if before is not None:
        # Both sides are unique in user_id.
        then = before.select("user_id", f.col("items").alias("then"))
        now = now.join(then, on="user_id", how="left")
        shared = f.size(f.array_intersect("items", "then"))
        either = f.size("items") + f.size("then") - shared
        wanted["n_new_users"] = f.count_if(f.col("then").isNull())
        wanted["overlap"] = f.avg(f.when(f.col("then").isNotNull(), shared / either))
    row = now.agg(*(column.alias(name) for name, column in wanted.items())).first()
    assert row is not None
    return row.asDict()


def count_scores(now: DataFrame, before: DataFrame | None) -> Scores | None:
    """Count the model's scores of two tables; None where neither has one.

    Args:
        now: schema ``RECOMMENDATIONS``.
        before: likewise; None for no other.
    """
    both = _model_scores(now, "now")
    if before is not None:
        both = both.unionByName(_model_scores(before, "before"))
    row = both.agg(f.min("score").alias("least"), f.max("score").alias("most")).first()
    assert row is not None
    least, most = row["least"], row["most"]
    if least is None:
        return None
    place = (f.col("score") - f.lit(least)) / f.lit((most - least) or 1.0) * N_BINS
    number = f.least(f.floor(place), f.lit(N_BINS - 1)).cast("int").alias("bin")
    counts = {side: np.zeros(N_BINS, dtype=np.int64) for side in ("now", "before")}
    for found in both.groupBy("side", number).count().collect():
        counts[found["side"]][found["bin"]] = found["count"]
    return Scores(least, most, counts["now"], counts["before"])


def _model_scores(table: DataFrame, side: str) -> DataFrame:
    scores = table.where(f.col("reason") == REASON_MODEL)
    return scores.select(f.col("score").cast("double").alias("score"), f.lit(side).alias("side"))


def population_stability(
    before: NDArray[np.int64], now: NDArray[np.int64], n_groups: int = 10
) -> float | None:
    """Sum of (q - p) ln(q / p) over groups that hold equal shares p of ``before``.

    Below 0.1 is commonly read as no change, above 0.25 as a large one.

    Args:
        before: (B,) numbers in bins.
        now: (B,) numbers in the same bins.
        n_groups: groups of neighbouring bins; fewer where a bin holds more than a group's share.
    Returns:
        None where one of the two is empty.
    """
    if not before.sum() or not now.sum():
        return None
    up_to = np.cumsum(before) / before.sum()
    # The bin that completes each n-th; a margin, for a tenth of ten is not 0.1 exactly.
    ends = np.searchsorted(up_to, np.arange(1, n_groups) / n_groups - 1e-12)
    starts = np.unique([0, *(ends + 1)])
    starts = starts[starts < len(before)]
    p, q = (
        np.maximum(np.add.reduceat(counts, starts) / counts.sum(), _LEAST_SHARE)
        for counts in (before, now)
    )
    return float(((q - p) * np.log(q / p)).sum())
