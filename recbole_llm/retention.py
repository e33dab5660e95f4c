"""How long what is kept is kept: each kind of table has its days, and goes after them.

Days are counted back from a day, which the DAG ``retention`` gives: its own. The newest published day
stays whatever its age, so that readers are never left without a table.
"""

import datetime
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import ConfigError
from recbole_llm.published import withdraw_days
from recbole_llm.raw_files import raw_digests
from recbole_llm.removal import remove_whole
from recbole_llm.warehouse import Warehouse

_log = logging.getLogger(__name__)
KINDS = ("raw", "quarantine", "tables", "metrics")
"""What has days in the settings' ``retention``; states have ``keep_days``."""
MOST_DAYS = 100_000
"""The most that a setting counts back: far from the calendar's end, and longer than there are data."""


@dataclass(frozen=True)
class Expired:
    """What went."""

    raw: list[str]
    """Days whose raw events were deleted."""
    quarantine: list[str]
    """Days whose rejected rows were deleted; their counts stay."""
    tables: list[str]
    """Days whose tables were withdrawn and deleted; the sinks follow at their next sync."""
    metrics: list[str]
    """Days whose figures and reports were deleted."""


def check_retention(settings: Any) -> dict[str, int]:
    """Check the section ``retention`` of the night's settings.

    Raises:
        ConfigError: a kind is unknown or missing, or its days are no number of at least 0.
    """
    if not isinstance(settings, dict) or settings.keys() != set(KINDS):
        found = list(settings) if isinstance(settings, dict) else settings
        raise ConfigError(f"retention must hold exactly {list(KINDS)}, got {found}")
    for kind, days in settings.items():
        if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= MOST_DAYS:
            raise ConfigError(
                f"retention.{kind} must be a number of days up to {MOST_DAYS}, or 0 for good, got "
                f"{days!r}"
            )
    return settings


def expire(warehouse: Warehouse, retention: dict[str, int], day: str) -> Expired:
    """Delete what is older than its days; the same again deletes nothing.

    The first raw day past its days that no night has read as it is now stays with a warning, and so do
    those after it: the next night goes on from there. Where one of these is gone, none can: it goes.

    Args:
        retention: from ``check_retention``.
        day: ``YYYY-MM-DD``, from which days are counted back.
    """
    oldest = {
        kind: str(datetime.date.fromisoformat(day) - datetime.timedelta(days=days))
        for kind, days in retention.items()
        if days
    }

    def past(kind: str, folder: Path) -> list[Path]:
        before = oldest.get(kind, "")
        return [path for path in sorted(folder.glob("ds=*")) if path.name[3:] < before]

    gone: dict[str, list[str]] = {kind: [] for kind in KINDS}
    gone["raw"] = _expire_raw(warehouse, past("raw", warehouse.raw_events), day)
    for path in past("quarantine", warehouse.root / "features"):
        folders = [each for each in path.glob("*/quarantine") if each.is_dir()]
        for folder in folders:
            shutil.rmtree(folder)
        gone["quarantine"] += [path.name[3:]] * bool(folders)
    if "tables" in oldest:
        withdraw_days(warehouse, oldest["tables"])
        published = warehouse.published_days()
        for path in past("tables", warehouse.root / "runs"):
            if path.name[3:] not in published:
                shutil.rmtree(path)
                gone["tables"].append(path.name[3:])
    for path in sorted(warehouse.metrics.glob("*.json")):
        if path.stem < oldest.get("metrics", ""):
            path.unlink()
            shutil.rmtree(warehouse.reports / f"ds={path.stem}", ignore_errors=True)
            gone["metrics"].append(path.stem)
    for kind, days in gone.items():
        if days:
            _log.info("%s: %d days went, %s to %s", kind, len(days), days[0], days[-1])
    return Expired(**gone)


def _expire_raw(warehouse: Warehouse, past: list[Path], day: str) -> list[str]:
    """Delete raw days that are past theirs, oldest first; which they were."""
    for half_deleted in warehouse.raw_events.glob(".*ds=*"):  # by a call that was killed
        remove_whole(half_deleted)
    read = {
        source
        for manifest in warehouse.features_manifests().values()
        for source in manifest["sources"].items()
    }
    events = f"{warehouse.raw_events.name}/"
    there = raw_digests(warehouse, None, day)
    lost = max((name for name in dict(read).keys() - there if name.startswith(events)), default="")
    gone = []
    for path in past:
        name = events + path.name
        if (name, there.get(name)) not in read:
            if name > lost:
                _log.warning("%s is past its days and stays, with those after it: no night has read "
                             "it, or what has come to it since", path)  # fmt: skip
                break
            _log.warning("%s goes without a night's having read it as it is: days after it are gone, "
                         "and no night could", path)  # fmt: skip
        remove_whole(path)
        gone.append(path.name[3:])
    return gone
