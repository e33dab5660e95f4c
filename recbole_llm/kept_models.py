"""Which models stay: the one in use, those of the newest tables, and a few challengers and champions.

What stands in ``artifacts`` without a decision, a compressed copy for instance, is left alone.
"""

import shutil

from recbole_llm.json_files import check_record, read_json
from recbole_llm.warehouse import Warehouse

_KEPT_DAYS = 7
"""Newest published days whose models stay, for the service and for explanations."""
_DECISION = {"decided_at": str, "model_version": str, "verdict": str}


def prune_extended(warehouse: Warehouse, keep: set[str]) -> None:
    """Delete artifacts with a day's new items that none of the newest tables was ranked by.

    Args:
        keep: versions that stay in any case.
    """
    in_use = keep | _in_use(warehouse)
    for index in warehouse.artifacts.glob("*/artifact.json"):
        if index.parent.name not in in_use and "extended_from" in read_json(index):
            shutil.rmtree(index.parent)


def prune_decided(warehouse: Warehouse, keep_refused: int, keep_superseded: int) -> None:
    """Delete refused challengers and earlier champions, but for the newest of each and those in use.

    Args:
        keep_refused: how many challengers stay.
        keep_superseded: how many earlier champions stay, beside those of the newest tables.
    """
    decisions = [
        check_record(read_json(path), _DECISION, path)
        for path in warehouse.decisions.glob("*.json")
    ]
    decisions.sort(key=lambda decision: decision["decided_at"])
    # A version that came again goes to the end: its newest verdict holds.
    verdicts: dict[str, str] = {}
    for decision in decisions:
        verdicts.pop(decision["model_version"], None)
        verdicts[decision["model_version"]] = decision["verdict"]
    in_use = _in_use(warehouse)
    there = [version for version in verdicts if (warehouse.artifacts / version).is_dir()]
    refused = [version for version in there if verdicts[version] == "refused"]
    superseded = [version for version in there if version not in {*refused, *in_use}]
    for versions, keep in ((refused, keep_refused), (superseded, keep_superseded)):
        for version in versions[: max(len(versions) - keep, 0)]:
            if version not in in_use:
                shutil.rmtree(warehouse.artifacts / version)


def _in_use(warehouse: Warehouse) -> set[str]:
    """The champion, and what ranked the newest published tables and those to roll back to."""
    newest = [*warehouse.published_days().values()][-_KEPT_DAYS:]
    runs = [each for run in newest for each in (run, *run["before"])]
    return {warehouse.champion_artifact().name, *(str(run.get("model_version")) for run in runs)}
