"""Settings of the night, from ``configs/nightly.yaml``, checked on the driver."""

import datetime
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recbole_llm.config_files import load_yaml
from recbole_llm.errors import ConfigError


@dataclass(frozen=True)
class NightConfig:
    """What a night's jobs do."""

    first_day: datetime.date
    """Events before this day are quarantined."""
    event_types: list[str]
    """Accepted event types; an absent type counts as ``view``."""
    max_history: int
    """Newest items kept of a user; all of them count as seen."""
    k: int
    """Items recommended to each user."""
    exclude_seen: bool
    """Never recommend what the user has met."""
    partitions: int
    """Files of a day's table, and tasks that score it."""
    users_per_batch: int
    """Users a task holds in memory at once."""
    max_fallback_share: float
    """A larger share of users on the fallback fails the audit."""
    max_row_change: float
    """A row count that differs from the last published day by a larger share fails the audit."""
    training: dict[str, Any]
    """Keys for RecBole; the jobs do not read them."""

    def __post_init__(self) -> None:
        for name, expected in (("first_day", datetime.date), ("event_types", list),
                               ("exclude_seen", bool), ("training", dict)):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, expected):
                raise ConfigError(f"{name} must be a {expected.__name__}, got {value!r}")
        for name in ("max_history", "k", "partitions", "users_per_batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
        for name in ("max_fallback_share", "max_row_change"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ConfigError(f"{name} must be a number of at least 0, got {value!r}")


def load_night_config(path: Path) -> NightConfig:
    """Read and check the night's settings.

    Raises:
        ConfigError: no such file, no YAML, or a key that is unknown, missing or out of range.
    """
    content = load_yaml(path)
    known = {field.name for field in fields(NightConfig)}
    if content.keys() != known:
        unknown, missing = sorted(content.keys() - known), sorted(known - content.keys())
        raise ConfigError(f"{path}: unknown keys {unknown}, missing keys {missing}")
    return NightConfig(**content)
