"""What users say of items, and what it comes to; see ``recbole_llm.lists.meanings``.

Of each user, item and meaning the newest time is kept, so that days can be merged in any order.
"""

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from recbole_llm.lists.meanings import ABOUT, MEANINGS, OF_HISTORY


def meaning(event_type: Column, feedback: dict[str, list[str]]) -> Column:
    """What an event of a type says of its item, one of ``MEANINGS``; empty for nothing.

    Args:
        event_type: string.
        feedback: event types by meaning.
    """
    return reduce(
        lambda otherwise, says: f.when(event_type.isin(feedback[says]), says).otherwise(otherwise),
        MEANINGS,
        f.lit(""),
    )


def is_met(says: Column) -> Column:
    """Whether an event that says this is a part of the history."""
    return says.isin(*OF_HISTORY)


def merge_opinions(opinions: DataFrame, arrivals: DataFrame) -> DataFrame:
    """Add what arrived; schema ``OPINIONS``, one row a user, item and meaning.

    Args:
        opinions: schema ``OPINIONS``, the state before.
        arrivals: from ``state.find_arrivals``.
    """
    said = arrivals.where(f.col("is_new") & (f.col("says") != "")).select(
        "user_id", "item_id", "says", f.col("timestamp").alias("said_at")
    )
    both = opinions.unionByName(said)
    return both.groupBy("user_id", "item_id", "says").agg(f.max("said_at").alias("said_at"))


def find_wishes(opinions: DataFrame, items: DataFrame) -> DataFrame:
    """What a user's opinions come to.

    Args:
        opinions: schema ``OPINIONS``.
        items: schema ``ITEMS``, of the same day: a category is what the item's is then.
    Returns:
        One row a user who said something: ``user_id``, and ``blocked_ids``, ``disliked_ids``,
        ``unread_ids`` and ``damped_categories`` as in ``SEQUENCES``.
    """
    newest = opinions.groupBy("user_id", "item_id").agg(
        *(
            f.max_by("says", f.when(f.col("says").isin(*says, "undo"), _when_said())).alias(matter)
            for matter, says in ABOUT.items()
        )
    )
    categories = items.select("item_id", "category").where("category != ''")
    damped = (
        newest.where("category_wish = 'damp'")
        .join(categories, on="item_id", how="inner")
        .groupBy("user_id")
        .agg(f.array_sort(f.collect_set("category")).alias("damped_categories"))
    )
    wish = f.col("wish")
    by_user = newest.groupBy("user_id").agg(
        _items_where(wish.isin("hide", "dislike")).alias("blocked_ids"),
        _items_where(wish == "dislike").alias("disliked_ids"),
        _items_where((wish == "dislike") | (f.col("reading") == "ignore")).alias("unread_ids"),
    )
    return by_user.join(damped, on="user_id", how="left")


def _when_said() -> Column:
    return f.struct("said_at", "says")


def _items_where(holds: Column) -> Column:
    return f.array_sort(f.collect_set(f.when(holds, f.col("item_id"))))  # that leaves nulls out
