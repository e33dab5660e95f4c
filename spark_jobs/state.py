"""What is known of users and items: state(D) = merge(state(D-1), events(D)).

Four tables: ``sequences`` (a user's newest items and wishes), ``items`` (the catalogue, who has met
what how often), ``opinions`` (what users said of items) and ``recent`` (the day's events, and those
that a late copy could still repeat). Merging days one by one or all at once gives the same rows.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from spark_jobs import schemas
from spark_jobs.cleaning import UNKNOWN_ITEM
from spark_jobs.opinions import is_met
from spark_jobs.pseudonyms import renew_users

GROUP_BYTES = {"sequences": 1 << 20, "opinions": 1 << 17}
"""Of a row group before compression, of what is looked up by user: a look-up reads one. The smaller,
the sooner it answers and the more the files take, which ``benchmarks.histories`` tells."""
_EVENT = ["user_id", "item_id", "timestamp", "says"]
_WISHES = ("blocked_ids", "disliked_ids", "unread_ids", "damped_categories")


@dataclass(frozen=True)
class State:
    """A day's state."""

    sequences: DataFrame
    """Schema ``SEQUENCES``, one row a user."""
    items: DataFrame
    """Schema ``ITEMS``, one row an item."""
    opinions: DataFrame
    """Schema ``OPINIONS``, one row a user, item and meaning."""
    recent: DataFrame
    """Schema ``RECENT``, each event once."""

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name, which is also their folder's."""
        return {name: getattr(self, name) for name in TABLES}


TABLES = {
    "sequences": schemas.SEQUENCES, "items": schemas.ITEMS, "opinions": schemas.OPINIONS,
    "recent": schemas.RECENT,
}  # fmt: skip


def read_state(spark: SparkSession, folder: Path) -> State:
    """Read a finished attempt."""
    return State(**{
        name: spark.read.schema(schema).parquet(str(folder / name))
        for name, schema in TABLES.items()
    })  # fmt: skip


def write_state(
    state: State, folder: Path, partitions: int, group_bytes: Mapping[str, int] = GROUP_BYTES
) -> None:
    """Write a day's tables below a folder, those that are looked up by user as a look-up wants them.

    Args:
        partitions: files of each table of users; each has a range of the users, sorted.
        group_bytes: of the row groups of each table that is looked up by user.
    """
    for name, order in (("sequences", ["user_id"]), ("opinions", schemas.OPINIONS.fieldNames())):
        ranges = state.tables()[name].repartitionByRange(partitions, "user_id")
        writer = ranges.sortWithinPartitions(*order).write
        writer.option("parquet.block.size", group_bytes[name]).parquet(str(folder / name))
    items = state.items.coalesce(1).sortWithinPartitions("item_id")
    items.write.parquet(str(folder / "items"))
    recent = state.recent.repartition(partitions, "user_id")
    recent.sortWithinPartitions("user_id", "timestamp", "item_id").write.parquet(
        str(folder / "recent")
    )


def empty_state(spark: SparkSession) -> State:
    """The state before the first day."""
    return State(**{name: spark.createDataFrame([], schema) for name, schema in TABLES.items()})


def renew_state(state: State, n_keys: int | None) -> State:
    """Bring users' pseudonyms up to date; see ``pseudonyms.renew_users``."""
    of_users = {
        name: renew_users(frame, n_keys)
        for name, frame in state.tables().items()
        if "user_id" in frame.columns
    }
    return replace(state, **of_users)


def merge_items(
    items: DataFrame, catalogue: DataFrame, days: list[str], known_since: datetime.date | None
) -> DataFrame:
    """Bring the catalogue up to its newest day; schema ``ITEMS``.

    An item that left the catalogue stays known, for it stands in histories, but is not available.

    Args:
        items: schema ``ITEMS``, the state before.
        catalogue: good rows of ``check_items``.
        days: the days of its catalogues, oldest first. Without one, ``items`` stay as they are.
        known_since: since when what is new in the earliest of them counts as known, where that is
            not its day: the first delivered day of events, where this is the first state, or the
            first since the state before, where the catalogue is of no day.
    """
    if not days:
        return items
    seen = f.col("ds")
    if known_since is not None:
        seen = f.when(f.col("ds") == f.lit(days[0]), f.lit(known_since)).otherwise(seen)
    told = (*schemas.ITEM_COLUMNS[1:], "markets", "published_on", "requires")
    newest = catalogue.groupBy("item_id").agg(
        f.max_by(f.struct(*told), "ds").alias("new"),
        f.min(seen).alias("seen"),
        f.max_by(f.col("available") & (f.col("ds") == f.lit(days[-1])), "ds").alias("on_sale"),
    )
    is_new = f.col("new").isNotNull()
    merged = items.join(newest, on="item_id", how="full").select(
        "item_id",
        *(f.when(is_new, f.col("new")[name]).otherwise(f.col(name)).alias(name) for name in told),
        f.coalesce("n_events", f.lit(0)).cast("bigint").alias("n_events"),
        f.coalesce("first_seen", "seen").alias("first_seen"),
        f.coalesce("on_sale", f.lit(False)).alias("available"),
    )
    return merged.select(schemas.ITEMS.fieldNames())


def trending(sequences: DataFrame, day: datetime.date, days: int) -> DataFrame:
    """How often each item was met in the last days: ``item_id``, ``n_events``.

    Args:
        sequences: schema ``SEQUENCES``, as of the day.
        day: the last one, in UTC.
        days: how many count.
    """
    first = day - datetime.timedelta(days=days - 1)
    since = int(
        datetime.datetime(first.year, first.month, first.day, tzinfo=datetime.UTC).timestamp()
    )
    events = f.explode(f.arrays_zip("item_ids", "timestamps")).alias("event")
    recent = sequences.select(events).where(f.col("event.timestamps") >= since)
    counts = recent.groupBy(f.col("event.item_ids").alias("item_id")).agg(
        f.count("*").alias("n_events")
    )
    return counts.coalesce(1).sortWithinPartitions("item_id")


def find_arrivals(events: DataFrame, recent: DataFrame, first_ds: datetime.date) -> DataFrame:
    """Each event that arrived, once.

    Args:
        events: from ``check_events``.
        recent: schema ``RECENT``, the state before.
        first_ds: the first delivered day, of which nothing is late.
    Returns:
        ``user_id``, ``item_id``, ``timestamp``, ``says``; ``market``, of the copy that came
        first; ``is_new``, false where the state knew it; ``is_late``, delivered after its day;
        ``n_copies``, rows that said it again.
    """
    accepted = events.where(f.col("reason").isNull())
    first = f.min(f.struct("ds", "market"))
    once = accepted.groupBy(*_EVENT).agg(f.count("*").alias("rows"), first.alias("first"))
    known = recent.withColumn("is_known", f.lit(True))
    is_new = f.col("is_known").isNull()
    day, delivered = f.to_date(f.timestamp_seconds("timestamp")), f.col("first.ds")
    return once.join(known, on=_EVENT, how="left").select(
        *_EVENT,
        f.col("first.market").alias("market"),
        is_new.alias("is_new"),
        (is_new & (day < delivered) & (delivered != f.lit(first_ds))).alias("is_late"),
        (f.col("rows") - is_new.cast("bigint")).alias("n_copies"),
    )


def extend_sequences(
    sequences: DataFrame,
    arrivals: DataFrame,
    events: DataFrame,
    wishes: DataFrame,
    max_history: int,
) -> DataFrame:
    """One row a user: what they met, oldest first, ties by item id; what they wish, and where.

    A user whose only well-formed events name unknown items has an empty sequence, so that they get
    a recommendation too.

    Args:
        sequences: schema ``SEQUENCES``, the state before.
        arrivals: from ``find_arrivals``.
        events: from ``check_events``.
        wishes: from ``opinions.find_wishes``, of all opinions.
        max_history: newest items kept. Merging keeps the newest of the newest, so nothing is lost.
    Returns:
        Schema ``SEQUENCES``.
    """
    is_news = f.col("is_new") & is_met(f.col("says"))
    said = f.struct(f.col("timestamp").alias("at"), "market")
    arrived = arrivals.groupBy("user_id").agg(
        f.collect_list(f.when(is_news, f.struct("timestamp", "item_id"))).alias("news"),  # no nulls
        f.max(f.when(f.col("is_new") & f.col("market").isNotNull(), said)).alias("place"),
        f.count_if("is_new").alias("n_news"),
        f.sum("n_copies").alias("n_copies"),
    )
    strangers = events.where(f.col("reason") == UNKNOWN_ITEM).select("user_id").distinct()
    # Whoever has wishes has a row, since the day they said so.
    joined = (
        sequences.drop(*_WISHES)
        .join(arrived, on="user_id", how="full")
        .join(strangers, on="user_id", how="full")
        .join(wishes, on="user_id", how="left")
    )
    kind = "array<struct<timestamp:bigint,item_id:string>>"
    before = f.arrays_zip("timestamps", "item_ids").cast(kind)
    none = f.array().cast(kind)
    history = f.sort_array(f.concat(f.coalesce(before, none), f.coalesce("news", none)))
    history = f.slice(history, -f.least(f.size(history), f.lit(max_history)), max_history)
    place = f.struct(f.col("market_at").alias("at"), "market")
    place = f.greatest(f.when(f.col("market").isNotNull(), place), f.col("place"))
    nothing = f.array().cast("array<string>")
    extended = joined.withColumns({"history": f.when(f.size("news") > 0, history), "place": place})
    return extended.select(
        "user_id",
        _first(f.col("history.item_id"), f.col("item_ids"), "array<string>").alias("item_ids"),
        _first(f.col("history.timestamp"), f.col("timestamps"), "array<bigint>").alias(
            "timestamps"
        ),
        _sum("n_events", "n_news").alias("n_events"),
        _sum("n_duplicates", "n_copies").alias("n_duplicates"),
        *(f.coalesce(name, nothing).alias(name) for name in _WISHES),
        f.col("place.market").alias("market"),
        f.col("place.at").alias("market_at"),
    ).withColumn("state_hash", f.xxhash64("item_ids", *_WISHES, "market"))


def count_events(items: DataFrame, arrivals: DataFrame) -> DataFrame:
    """Add the new events to each item's number; schema ``ITEMS``."""
    met = arrivals.where(f.col("is_new") & is_met(f.col("says")))
    news = met.groupBy("item_id").agg(f.count("*").alias("n_news"))
    names = [field.name for field in schemas.ITEMS]
    return (
        items.join(news, on="item_id", how="left")
        .withColumn("n_events", _sum("n_events", "n_news"))
        .select(*names)
    )


def keep_recent(
    recent: DataFrame, arrivals: DataFrame, day: datetime.date, max_late_days: int
) -> DataFrame:
    """The day's events, and those that a row delivered later may repeat; schema ``RECENT``."""
    oldest = day + datetime.timedelta(days=1 - max(max_late_days, 1))
    from_s = int(datetime.datetime(oldest.year, oldest.month, oldest.day,
                                   tzinfo=datetime.UTC).timestamp())  # fmt: skip
    both = recent.unionByName(arrivals.where("is_new").select(*_EVENT))
    return both.where(f.col("timestamp") >= from_s)


def summarise(frame: DataFrame, **figures: Column) -> dict[str, int]:
    """Whole numbers of a frame in one pass, and ``fingerprint``, a hash of its rows in any order."""
    hashes = f.sum(f.xxhash64(*frame.columns).cast("decimal(38,0)")).alias("fingerprint")
    row = frame.agg(hashes, *(figure.alias(name) for name, figure in figures.items())).first()
    assert row is not None
    numbers = {name: int(value or 0) for name, value in row.asDict().items()}
    return {**numbers, "fingerprint": numbers["fingerprint"] % (1 << 64)}


def _first(given: Column, otherwise: Column, kind: str) -> Column:
    return f.coalesce(given, otherwise, f.array().cast(kind))


def _sum(*names: str) -> Column:
    first, second = (f.coalesce(name, f.lit(0)).cast("bigint") for name in names)
    return first + second
