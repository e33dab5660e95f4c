"""Where raw files lie, and what tells whether they are still what they were."""

import hashlib
from pathlib import Path

from recbole_llm.warehouse import Warehouse, delivered_days


def data_files(folder: Path) -> list[Path]:
    """Files of a folder, without hidden ones and markers such as ``_SUCCESS``."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and is_data(path))


def is_data(file: Path) -> bool:
    """Whether a name is one of data."""
    return not file.name.startswith(("_", "."))


def raw_digests(warehouse: Warehouse, after: str | None, day: str) -> dict[str, str]:
    """A digest of each raw partition after one day up to another, by names, sizes and times."""
    return {
        f"{folder.name}/ds={each}": _digest(folder / f"ds={each}")
        for folder in (warehouse.raw_events, warehouse.raw_items)
        for each in delivered_days(folder)
        if (after or "") < each <= day
    }


def _digest(folder: Path) -> str:
    stats = ((file.name, file.stat()) for file in data_files(folder))
    listing = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()[:16]
