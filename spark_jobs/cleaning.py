"""Type raw rows and say what is wrong with them; nothing is dropped.

A row has at most one reason: the first fault of a stated list. Each is judged by the day it was
delivered, so the outcome is the same whether days are read one by one or together.
"""

import datetime
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as f

from recbole_llm.blocks import FORGOTTEN, Blocks
from spark_jobs import schemas
from spark_jobs.config import NightConfig
from spark_jobs.opinions import meaning
from spark_jobs.pseudonyms import pseudonyms
from spark_jobs.raw_events import json_list
from spark_jobs.schemas import MALFORMED
from spark_jobs.screening import screened

UNKNOWN_ITEM = "unknown_item"
ROBOT = "robot"
_USER, _IS_FORGOTTEN, _HAS_ODD_DAY = "user", "is_forgotten", "has_odd_day"
_CLEAN = "clean_"
_NOBODY = Blocks("", {})
_SECONDS_A_DAY = 86_400
_CALENDAR = (-62_135_596_800, 253_402_300_799)
"""Unix seconds of the years 1 to 9999, which dates everywhere can be of."""
_MAX_ID_LENGTH = 256
_ODD_IDS = '[\\p{Cc}\\p{Zl}\\p{Zp}"\\uFEFF\\uFFFD]|^[\\[{]'
"""Control characters, line breaks and double quotes, which RecBole's files, like many a tool's, take
for markup; what a wrong encoding leaves; a list or a record where a word belongs."""
_ACTIVE = "[\\p{Cc}\\p{Zl}\\p{Zp}\\x{202A}-\\x{202E}\\x{2066}-\\x{2069}]"
"""What a text must not hold: a terminal obeys it, PostgreSQL refuses it, or it turns what is read."""
_BLANK = "^[\\s\\p{Z}]*$"
_DATE = "^\\s*[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
"""Spark reads a time without a date as today's."""


def check_events(
    raw: DataFrame,
    items: DataFrame,
    first_ds: datetime.date,
    config: NightConfig,
    blocks: Blocks = _NOBODY,
) -> DataFrame:
    """Type each event and say what is wrong with it.

    Args:
        raw: string columns ``EVENT_COLUMNS``, ``malformed`` and ``ds``, the day of delivery.
        items: ``item_id``, unique, and ``first_seen``.
        first_ds: the first delivered day, whose events may be of any age.
        config: ``first_day``, ``event_types``, ``feedback``, ``markets``, ``max_late_days`` and
            ``max_daily_events`` count.
        blocks: users who are forgotten; of their events nothing is kept but that there was one.
    Returns:
        Schema ``CHECKED_EVENTS``; ``reason`` is null when the row is good, ``raw`` is the record as
        JSON. Where users are pseudonyms the record has the user's, and one that cannot be read is
        not kept.
    """
    user, unreadable = f.trim("user_id"), f.col(MALFORMED)
    is_forgotten = f.lit(False)
    if blocks.marks:
        first_name = pseudonyms(user, 1) if config.user_ids == "pseudonym" else user
        mark = f.sha2(f.concat(f.lit(blocks.salt), first_name), 256)
        is_forgotten = mark.isin(list(blocks.marks))
    if config.user_ids == "pseudonym":
        user = pseudonyms(user)
        unreadable = f.concat(
            f.lit("not kept, where users are pseudonyms: "),
            f.length(unreadable),
            f.lit(" characters"),
        )
    raw = raw.withColumns({_USER: user, _IS_FORGOTTEN: is_forgotten})
    as_seconds = _seconds(f.col("timestamp"))
    delivered = f.col("ds").cast("date")
    midnight = f.unix_date(delivered).cast("bigint") * _SECONDS_A_DAY
    from_s = _days(config.first_day) * _SECONDS_A_DAY
    is_late = as_seconds < midnight - config.max_late_days * _SECONDS_A_DAY
    rating = f.col("rating").try_cast("double")
    event_type = f.coalesce(f.col("event_type"), f.lit("view"))
    says = meaning(event_type, config.feedback)
    market = f.nullif(f.trim("market"), f.lit("")) if config.markets else f.lit(None).cast("string")
    faults: list[tuple[Column, str]] = [
        (f.col(MALFORMED).isNotNull(), "malformed_record"),
        (f.col(_IS_FORGOTTEN), FORGOTTEN),
        (_is_blank("user_id"), "missing_user_id"),
        (_is_odd("user_id"), "bad_user_id"),
        (_is_blank("item_id"), "missing_item_id"),
        (_is_odd("item_id"), "bad_item_id"),
        (as_seconds.isNull(), "bad_timestamp"),
        (as_seconds < from_s, "timestamp_outside_calendar"),
        (as_seconds >= midnight + _SECONDS_A_DAY, "timestamp_outside_calendar"),
        (is_late & (delivered != f.lit(first_ds)), "too_late"),
        (~event_type.isin(config.event_types) & (says == ""), "unknown_event_type"),
        (market.isNotNull() & ~market.isin(config.markets), "unknown_market"),
        (f.col("rating").isNotNull() & ~_is_finite(rating), "bad_rating"),
        (f.col("first_seen").isNull() | (f.col("first_seen") > delivered), UNKNOWN_ITEM),
    ]
    told = {"user_id": f.col(_USER)} if config.user_ids == "pseudonym" else {}
    record = f.struct(*(told.get(name, f.col(name)).alias(name) for name in schemas.EVENT_COLUMNS))
    # The catalogue is unique in item_id, so the join keeps the number of events.
    known = items.select(f.col("item_id").alias("known_id"), "first_seen")
    checked = raw.join(known, f.trim("item_id") == f.col("known_id"), how="left").select(
        f.when(f.col(_IS_FORGOTTEN), FORGOTTEN).otherwise(f.col(_USER)).alias("user_id"),
        f.trim("item_id").alias("item_id"),
        as_seconds.alias("timestamp"),
        says.alias("says"),
        market.alias("market"),
        delivered.alias("ds"),
        first_fault(faults).alias("reason"),
        f.when(f.col(_IS_FORGOTTEN), FORGOTTEN)
        .otherwise(f.coalesce(unreadable, f.to_json(record)))
        .alias("raw"),
    )
    return _mark_robots(checked, config.max_daily_events)


def _mark_robots(events: DataFrame, max_daily_events: int) -> DataFrame:
    robots = (
        events.where(f.col("reason").isNull() | (f.col("reason") == UNKNOWN_ITEM))
        .groupBy("user_id", "ds")
        .count()
        .where(f.col("count") > max_daily_events)
        .select("user_id", "ds", f.lit(True).alias("is_robot"))
    )
    is_robot = f.col("is_robot").isNotNull() & (
        f.col("reason").isNull() | (f.col("reason") == UNKNOWN_ITEM)
    )
    # Few users, so that the events are not shuffled.
    return events.join(f.broadcast(robots), on=["user_id", "ds"], how="left").select(
        "user_id", "item_id", "timestamp", "says", "market", "ds",
        f.when(is_robot, f.lit(ROBOT)).otherwise(f.col("reason")).alias("reason"), "raw",
    )  # fmt: skip


def check_items(raw: DataFrame, phone_regions: list[str]) -> DataFrame:
    """Type the catalogue and say what is wrong with a row.

    Args:
        raw: string columns ``RAW_ITEM_COLUMNS``, ``malformed`` and ``ds``.
        phone_regions: for ``screening.screen``, which every text goes through. Control characters in
            texts become blanks.
    Returns:
        ``ITEM_COLUMNS``, ``available`` (boolean), ``markets`` (strings, sorted), ``published_on``
        (date), ``requires`` (strings, sorted), ``ds`` (date), ``reason``, ``raw``, and
        ``is_screened``, whether something was taken out. Of a day's rows with one id the first by its
        text is kept, the others are ``duplicate_item``.
    """
    available = f.trim(f.coalesce("available", f.lit("")))
    published = f.nullif(f.trim("published_at"), f.lit(""))
    published_s = _seconds(published)
    is_day = published_s.between(*_CALENDAR)
    texts = ["title", "description", MALFORMED]
    clean = raw.withColumns(
        {f"{_CLEAN}{name}": screened(f.col(name), phone_regions) for name in texts}
    )
    is_screened = f.array_contains(
        f.array(*(f.equal_null(name, f"{_CLEAN}{name}") for name in texts)), False
    )
    raw = clean.withColumn("is_screened", is_screened).withColumns(
        {name: f.col(f"{_CLEAN}{name}") for name in texts}
    )
    rows = raw.select(
        f.trim("item_id").alias("item_id"),
        *(_inert(name).alias(name) for name in schemas.ITEM_COLUMNS[1:]),
        f.when(available == "", f.lit(True))
        .otherwise(available.try_cast("boolean"))
        .alias("available"),
        _names("markets").alias("markets"),
        f.when(is_day, f.to_date(f.timestamp_seconds(published_s))).alias("published_on"),
        _ids("requires").alias("requires"),
        (published.isNotNull() & ~f.coalesce(is_day, f.lit(False))).alias(_HAS_ODD_DAY),
        f.col("ds").cast("date").alias("ds"),
        f.coalesce(MALFORMED, f.to_json(f.struct(*schemas.RAW_ITEM_COLUMNS))).alias("raw"),
        MALFORMED,
        "is_screened",
    )
    faults: list[tuple[Column, str]] = [
        (f.col(MALFORMED).isNotNull(), "malformed_record"),
        (_is_blank("item_id"), "missing_item_id"),
        (_is_odd("item_id"), "bad_item_id"),
        (f.col("available").isNull(), "bad_available"),
        (f.col(_HAS_ODD_DAY), "bad_published_at"),
    ]
    rows = rows.withColumn("reason", first_fault(faults)).drop(MALFORMED, _HAS_ODD_DAY)
    copies = Window.partitionBy("item_id", "ds", "reason").orderBy("raw")
    is_copy = f.col("reason").isNull() & (f.row_number().over(copies) > 1)
    return rows.withColumn("reason", f.when(is_copy, "duplicate_item").otherwise(f.col("reason")))


def first_fault(faults: list[tuple[Column, str]]) -> Column:
    """The reason of the first condition that holds; null when none does."""
    return reduce(
        lambda later, fault: f.when(fault[0], f.lit(fault[1])).otherwise(later),
        reversed(faults),
        f.lit(None).cast("string"),
    )


def _is_blank(name: str) -> Column:
    return f.coalesce(name, f.lit("")).rlike(_BLANK)


def _inert(name: str) -> Column:
    """A text with blanks for its control characters; others keep their bytes, UTF-8 or not."""
    text = f.coalesce(name, f.lit(""))
    blank = f.regexp_replace(text, _ACTIVE, " ")
    return f.trim(f.when(text.rlike(_ACTIVE), blank).otherwise(text))


def _is_finite(number: Column) -> Column:
    return f.coalesce(f.abs(number) < float("inf"), f.lit(False))  # NaN is above all others


def _names(name: str) -> Column:
    """The names in a text such as ``de,at`` or ``["de", "at"]``, each once, sorted."""
    parts = f.split(f.coalesce(name, f.lit("")), '[\\[\\]",;|\\s]+')
    return f.array_sort(f.array_distinct(f.array_remove(parts, "")))


def _ids(name: str) -> Column:
    """The same of ids, which may hold blanks and commas where they stand in a JSON list."""
    ids = f.transform(json_list(f.col(name)), lambda id_: f.trim(f.coalesce(id_, f.lit(""))))
    return f.coalesce(f.array_sort(f.array_distinct(f.array_remove(ids, ""))), _names(name))


def _seconds(text: Column) -> Column:
    """Unix seconds of a text that says them, or a date with or without a time; null of another."""
    return f.coalesce(
        text.try_cast("double").try_cast("bigint"),
        f.when(text.rlike(_DATE), f.unix_seconds(f.try_to_timestamp(text))),
    )


def _is_odd(name: str) -> Column:
    return f.trim(name).rlike(_ODD_IDS) | (f.length(name) > _MAX_ID_LENGTH)


def _days(day: datetime.date) -> int:
    return (day - datetime.date(1970, 1, 1)).days
