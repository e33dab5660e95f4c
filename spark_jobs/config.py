"""Settings of the night, from ``configs/nightly.yaml``, checked on the driver."""

import datetime
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import phonenumbers

from recbole_llm.config_files import load_settings
from recbole_llm.errors import ConfigError
from recbole_llm.lists.meanings import MEANINGS
from recbole_llm.lists.strategy import read_strategy
from recbole_llm.retention import MOST_DAYS, check_retention
from spark_jobs.bands import check_bands
from spark_jobs.schemas import EVENT_COLUMNS, MALFORMED, RAW_ITEM_COLUMNS, TEXT_COLUMNS

_MOST = 2**31 - 1
"""What Spark's integers hold."""
_LEAST_HALF_LIFE = 0.01
"""Days; after centuries of a shorter one scores would no longer be told apart."""
_FIELD = re.compile(rf"(?!{MALFORMED}$)[^`]+$")


@dataclass(frozen=True)
class NightConfig:
    """What a night's jobs do."""

    user_ids: str
    """What stands for users in all that is written: ``pseudonym`` or ``plain``."""
    event_fields: dict[str, str]
    """What the feed calls our columns, where it calls them otherwise."""
    item_fields: dict[str, str | list[str]]
    """What the catalogue calls our columns. A list of its columns makes one text of theirs, and of
    lists in them."""
    first_day: datetime.date
    """Events before this day are quarantined."""
    phone_regions: list[str]
    """Regions whose phone numbers are taken out of texts where they have no country's code too."""
    event_types: list[str]
    """Accepted event types; an absent type counts as ``view``."""
    feedback: dict[str, list[str]]
    """Event types that say what a user thinks of an item, by their meaning, one of ``MEANINGS``; but
    for ``like`` they are no part of the history."""
    markets: list[str]
    """Accepted markets; the first is that of users whose events name none. Empty: events' and items'
    markets are not looked at."""
    max_late_days: int
    """Events delivered up to this many days after the day they happened are merged in their order;
    later ones are quarantined. The first delivered day may bring events of any age."""
    max_daily_events: int
    """A user with more events in a day's delivery is a robot; they are quarantined."""
    max_history: int
    """Newest items kept of a user; all of them count as seen."""
    k: int
    """Items recommended to each user."""
    exclude_seen: bool
    """Never recommend what the user has met."""
    max_per_category: int
    """Items of one category in a list; 0 for any number. Items without a category are not counted."""
    freshness_half_life_days: float
    """Days of age that halve an item's odds; 0 for no such fall."""
    dislike_weight: float
    """By what share of its length a user's state moves away from the items they dislike."""
    category_damping: float
    """What the odds of an item are multiplied by, where the user damped its category."""
    strategy: dict[str, Any]
    """Where a list's items come from, see ``recbole_llm/lists/strategy.py``."""
    explain_ranks: int
    """First ranks of each list that say why; 0 for none."""
    carry_over: bool
    """Rank only the users whose history or choice changed since the last published day."""
    partitions: int
    """Files of a day's state and table, and tasks that score it."""
    users_per_batch: int
    """Users a task holds in memory at once."""
    max_fallback_share: float
    """A larger share of users on the fallback, or without a list, fails the audit."""
    max_row_change: float
    """A row count that differs from the last published day by a larger share fails the audit."""
    keep_runs: int
    """Runs that a day's table was before and that stay, to roll back to."""
    keep_days: int
    """Days whose state stays to be extended; of older ones the quarantine and the counts stay."""
    retention: dict[str, int]
    """Days that each kind is kept, see ``recbole_llm/retention.py``; the jobs do not read it."""
    sinks: list[str]
    """Copies of the published tables, which follow them after ``publish``: ``postgresql://…`` without
    a password, ``delta:FOLDER``. The jobs do not read them."""
    band_nights: int
    """Nights before the night's own whose median a figure is held against."""
    bands: dict[str, dict[str, float]]
    """When a figure of ``metrics_daily`` is warned of, by its name: ``least`` and ``most`` are limits,
    ``change`` is the share that it may differ from the median of the nights before."""
    training: dict[str, Any]
    """Keys for RecBole; the jobs do not read them."""
    continuation: dict[str, Any]
    """How a challenger goes on from the champion's weights, see ``recbole_llm/champion.py``; the jobs
    do not read it."""
    promotion: dict[str, Any]
    """Whether a challenger becomes champion, see ``recbole_llm/judge.py``; the jobs do not read it."""

    def __post_init__(self) -> None:
        if self.user_ids not in ("pseudonym", "plain"):
            raise ConfigError(f"user_ids must be pseudonym or plain, got {self.user_ids!r}")
        for name, expected in (("first_day", datetime.date), ("event_types", list),
                               ("feedback", dict), ("markets", list), ("phone_regions", list),
                               ("event_fields", dict), ("item_fields", dict),
                               ("exclude_seen", bool), ("carry_over", bool),
                               ("sinks", list), ("bands", dict), ("training", dict), ("strategy", dict),
                               ("retention", dict), ("continuation", dict),
                               ("promotion", dict)):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, expected):
                raise ConfigError(f"{name} must be a {expected.__name__}, got {value!r}")
        for name, least in (("max_late_days", 0), ("max_daily_events", 1), ("max_history", 1),
                            ("k", 1), ("max_per_category", 0), ("partitions", 1), ("explain_ranks", 0),
                            ("users_per_batch", 1), ("keep_runs", 0), ("keep_days", 1),
                            ("band_nights", 1)):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be an integer of at least {least}, got {value!r}")
            most = MOST_DAYS if name in ("keep_days", "max_late_days", "band_nights") else _MOST
            if value > most:
                raise ConfigError(f"{name} must be at most {most}, got {value}")
        self._check_names()
        for name in ("max_fallback_share", "max_row_change", "dislike_weight", "category_damping",
                     "freshness_half_life_days"):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ConfigError(f"{name} must be a number of at least 0, got {value!r}")
        if not 0 < self.category_damping <= 1:
            raise ConfigError(
                f"category_damping must be in (0, 1], got {self.category_damping!r}; hide takes items "
                "out altogether"
            )
        read_strategy(self.strategy)
        half_life = self.freshness_half_life_days
        if half_life and not _LEAST_HALF_LIFE <= half_life <= MOST_DAYS:
            raise ConfigError(
                f"freshness_half_life_days must be 0, for no fall with age, or in [{_LEAST_HALF_LIFE}, "
                f"{MOST_DAYS}], got {half_life!r}"
            )
        _check_fields("event_fields", self.event_fields, EVENT_COLUMNS, ())
        _check_fields("item_fields", self.item_fields, RAW_ITEM_COLUMNS, TEXT_COLUMNS)
        check_bands(self.bands)
        check_retention(self.retention)

    def _check_names(self) -> None:
        are_lists = all(isinstance(types, list) for types in self.feedback.values())
        if self.feedback.keys() != set(MEANINGS) or not are_lists:
            raise ConfigError(
                f"feedback must hold exactly {list(MEANINGS)}, each a list of event types, got "
                f"{self.feedback}"
            )
        said = list(chain(*self.feedback.values()))
        for name, values in (("event_types", self.event_types), ("markets", self.markets),
                             ("feedback", said), ("phone_regions", self.phone_regions)):  # fmt: skip
            if not all(isinstance(v, str) and v for v in values) or len({*values}) != len(values):
                raise ConfigError(f"{name} must hold different names, got {values!r}")
        if both := sorted(set(self.event_types) & set(said)):
            raise ConfigError(f"event types {both} stand in event_types and in feedback")
        if unknown := sorted(set(self.phone_regions) - set(phonenumbers.SUPPORTED_REGIONS)):
            raise ConfigError(f"phone_regions must be regions such as DE or US, got {unknown}")


def _check_fields(
    name: str, fields: dict[str, Any], columns: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    """A column of ours has one name, or, if it is a text, several.

    Raises:
        ConfigError: it has another, or it is none of ours.
    """
    if unknown := sorted(set(fields) - set(columns), key=str):
        raise ConfigError(f"{name} must be of the columns {list(columns)}, got {unknown}")
    for column, given in fields.items():
        names = given if isinstance(given, list) and column in texts else [given]
        if not names or not all(isinstance(each, str) and _FIELD.match(each) for each in names):
            lists = f", or for {list(texts)} a list of names" if texts else ""
            raise ConfigError(
                f"{name}.{column} must be a column's name, without backticks and not {MALFORMED!r}"
                f"{lists}; got {given!r}"
            )


def load_night_config(path: Path) -> NightConfig:
    """Read and check the night's settings.

    Raises:
        ConfigError: no such file or base, no YAML, or a key that is unknown, missing or out of range.
    """
    return load_settings(path, NightConfig)
