"""Columns and schemas of what the jobs read and write; each output ends in one of these."""

import pyarrow as pa
from pyspark.sql import types as t
from pyspark.sql.pandas.types import from_arrow_schema

from recbole_llm.recommendations import RECOMMENDATIONS as _RECOMMENDATIONS

REQUIRED_EVENT_COLUMNS = ("user_id", "item_id", "timestamp")
OPTIONAL_EVENT_COLUMNS = ("rating", "event_type", "market")
EVENT_COLUMNS = REQUIRED_EVENT_COLUMNS + OPTIONAL_EVENT_COLUMNS
TEXT_COLUMNS = ("title", "category", "description")
MEDIA_COLUMNS = ("image", "audio")
ITEM_COLUMNS = ("item_id", *TEXT_COLUMNS, *MEDIA_COLUMNS)
RAW_ITEM_COLUMNS = (*ITEM_COLUMNS, "available", "markets", "published_at", "requires")
# A record that could not be read, beside the columns of either.
MALFORMED = "malformed"

# Every event that was read, typed, with what is wrong with it.
CHECKED_EVENTS = t.StructType(
    [
        t.StructField("user_id", t.StringType()),
        t.StructField("item_id", t.StringType()),
        # Unix seconds, UTC.
        t.StructField("timestamp", t.LongType()),
        # What it says of the item, one of ``opinions.MEANINGS``; empty where the item was just met.
        t.StructField("says", t.StringType()),
        # Where it happened; null where it does not say.
        t.StructField("market", t.StringType()),
        # The day of its delivery.
        t.StructField("ds", t.DateType()),
        t.StructField("reason", t.StringType()),
        t.StructField("raw", t.StringType()),
    ]
)

SEQUENCES = t.StructType(
    [
        t.StructField("user_id", t.StringType()),
        # Oldest first, ties by item id; at most max_history.
        t.StructField("item_ids", t.ArrayType(t.StringType(), containsNull=True)),
        # Unix seconds, UTC, in step with item_ids.
        t.StructField("timestamps", t.ArrayType(t.LongType(), containsNull=True)),
        t.StructField("n_events", t.LongType()),
        t.StructField("n_duplicates", t.LongType()),
        # What is not recommended to the user, sorted.
        t.StructField("blocked_ids", t.ArrayType(t.StringType(), containsNull=True)),
        # Those of blocked_ids that the user dislikes, sorted.
        t.StructField("disliked_ids", t.ArrayType(t.StringType(), containsNull=True)),
        # Items that are not read from item_ids, sorted.
        t.StructField("unread_ids", t.ArrayType(t.StringType(), containsNull=True)),
        # Categories that the user wants less of, sorted.
        t.StructField("damped_categories", t.ArrayType(t.StringType(), containsNull=True)),
        # That of the newest event which names one, and that event's time.
        t.StructField("market", t.StringType()),
        t.StructField("market_at", t.LongType()),
        # Of what a list depends on: equal ones mean equal lists.
        t.StructField("state_hash", t.LongType()),
    ]
)

ITEMS = t.StructType(
    [
        t.StructField("item_id", t.StringType()),
        t.StructField("title", t.StringType()),
        t.StructField("category", t.StringType()),
        t.StructField("description", t.StringType()),
        # Paths below the folder of the catalogues, or data:…;base64,… with the bytes; empty for none.
        t.StructField("image", t.StringType()),
        t.StructField("audio", t.StringType()),
        t.StructField("n_events", t.LongType()),
        # The first day whose catalogue held it.
        t.StructField("first_seen", t.DateType()),
        # Whether the newest catalogue holds it and does not say otherwise.
        t.StructField("available", t.BooleanType()),
        # Where it may be recommended, sorted; empty for everywhere.
        t.StructField("markets", t.ArrayType(t.StringType(), containsNull=True)),
        # The day that the catalogue says; null where it says none.
        t.StructField("published_on", t.DateType()),
        # Items that a user must have met before it is recommended to them, sorted.
        t.StructField("requires", t.ArrayType(t.StringType(), containsNull=True)),
    ]
)

# Accepted events that a late copy could still repeat.
RECENT = t.StructType(
    [
        t.StructField("user_id", t.StringType()),
        t.StructField("item_id", t.StringType()),
        t.StructField("timestamp", t.LongType()),
        t.StructField("says", t.StringType()),
    ]
)

# What users said of items, each meaning at its newest time.
OPINIONS = t.StructType(
    [
        t.StructField("user_id", t.StringType()),
        t.StructField("item_id", t.StringType()),
        # One of ``opinions.MEANINGS``.
        t.StructField("says", t.StringType()),
        # Unix seconds, UTC.
        t.StructField("said_at", t.LongType()),
    ]
)

QUARANTINE = t.StructType(
    [
        t.StructField("ds", t.DateType()),
        t.StructField("source", t.StringType()),
        t.StructField("reason", t.StringType()),
        t.StructField("raw", t.StringType()),
    ]
)

# For the workers that write the table's files, and for Spark.
RECOMMENDATIONS_ARROW = _RECOMMENDATIONS
RECOMMENDATIONS = from_arrow_schema(RECOMMENDATIONS_ARROW)

# What a worker tells of a file that it has written; mapInArrow does not cast, so one makes the other.
SCORED_FILES_ARROW = pa.schema(
    [
        ("file", pa.string()),
        ("n_users", pa.int64()),
        ("n_short_users", pa.int64()),
        ("n_carried_users", pa.int64()),
        ("n_unknown_items", pa.int64()),
    ]
)
SCORED_FILES = from_arrow_schema(SCORED_FILES_ARROW)
