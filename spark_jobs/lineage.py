"""Which earlier state a night may extend: the newest that still says what its raw files say.

A state is made from an older one and from the days delivered since, and its manifest names both. It
is no longer good to build on when a file of those days was changed, added or taken away, when the
older state was made anew with another outcome, or when the settings of the night are others. Days
whose raw folder is gone altogether are past their retention, not changed; but a night that would need
them, for the states that read them are no longer good, is an error.
"""

from typing import Any

from recbole_llm.errors import DataError
from recbole_llm.raw_files import raw_digests
from recbole_llm.warehouse import Warehouse, delivered_days
from spark_jobs.config import NightConfig


def find_base(
    warehouse: Warehouse, day: str, config: NightConfig, user_keys: list[str]
) -> dict[str, Any] | None:
    """The manifest of the newest state before a day that the day may extend.

    Args:
        user_keys: names of the keys of users' pseudonyms. A state that was made with the first of
            them can be brought up to date.
    Returns:
        The manifest, or None when the state has to be made from the first delivered day on.
    Raises:
        DataError: it has to be, and the first days are no longer there; or days after the state have
            been read, by one that the day may not extend, and are no longer there.
    """
    settings = state_settings(config)
    manifests = {each: m for each, m in warehouse.features_manifests().items() if each < day}
    sound: dict[str, dict[str, Any]] = {}
    for each, manifest in manifests.items():
        base = manifest["base"]
        if _may_extend(manifest, settings, user_keys) and (
            base is None
            or base["ds"] not in manifests  # past its retention
            or (base["ds"] in sound and sound[base["ds"]]["fingerprint"] == base["fingerprint"])
        ):
            since = base["ds"] if base else None
            there = raw_digests(warehouse, since, each)
            made_from = manifest["sources"]
            if all(made_from.get(name) == digest for name, digest in there.items()):
                sound[each] = manifest
    usable = [m for m in sound.values() if (warehouse.root / m["path"] / "sequences").is_dir()]
    if usable:
        _check_days_after(usable[-1], manifests, warehouse)
        return usable[-1]
    if manifests:
        first = next(iter(manifests.values()))["first_ds"]
        if not (warehouse.raw_events / f"ds={first}").is_dir():
            raise DataError(
                f"no state before {day} can be extended (changed raw files or settings), and the raw "
                f"events since {first} that it would be made from anew are gone; restore them, or "
                "the settings, or remove the features to begin with what is there"
            )
    return None


def _check_days_after(
    base: dict[str, Any], manifests: dict[str, dict[str, Any]], warehouse: Warehouse
) -> None:
    events = f"{warehouse.raw_events.name}/ds="
    read = {
        name.removeprefix(events)
        for day, manifest in manifests.items()
        if day > base["ds"]
        for name in manifest["sources"]
        if name.startswith(events)
    }
    there = {base["ds"], *delivered_days(warehouse.raw_events)}
    if gone := sorted(day for day in read - there if day > base["ds"]):
        raise DataError(
            f"the newest state that can be extended is that of {base['ds']} (changed raw files or "
            f"settings), and raw events after it are gone, of {gone[0]} to {gone[-1]}; restore them, "
            "or the settings, or remove the features to begin with what is there"
        )


def _may_extend(manifest: dict[str, Any], settings: dict[str, Any], user_keys: list[str]) -> bool:
    if manifest["settings"] != settings:
        return False
    then: list[str] = manifest["user_keys"]
    return user_keys[: len(then)] == then and bool(then) == bool(user_keys)


def state_settings(config: NightConfig) -> dict[str, Any]:
    """The settings that a state depends on, as its manifest holds them."""
    return {
        "event_fields": config.event_fields,
        "item_fields": config.item_fields,
        "first_day": config.first_day.isoformat(),
        "event_types": sorted(config.event_types),
        "feedback": {meaning: sorted(names) for meaning, names in sorted(config.feedback.items())},
        "markets": sorted(config.markets),
        "phone_regions": sorted(config.phone_regions),
        "max_history": config.max_history,
        "max_late_days": config.max_late_days,
        "max_daily_events": config.max_daily_events,
    }
