"""What a published table and its day's state say of one user: what there is to explain."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import ArtifactError, NotFoundError
from recbole_llm.parquet_tables import duckdb_over
from recbole_llm.query import lookup
from recbole_llm.warehouse import Warehouse

_ALL = 100_000
"""More than a list or a history holds."""


@dataclass(frozen=True)
class Asked:
    """A user of a table."""

    user_id: str
    ds: str
    run_id: str
    artifact: Path
    """Folder of the model that scored the user's day."""
    history: list[str]
    """External item ids, oldest first, of what the user lets be read."""
    ranked: list[dict[str, Any]]
    """rank, item_id, title, score, reason; best first."""
    categories: dict[str, str]
    """Of the items of both, by external id; without those that have none."""


def ask_table(
    warehouse: Warehouse, user_id: str, day: str | None = None, artifact: Path | None = None
) -> Asked:
    """Find a user's list, the history behind it and the model that made it.

    Args:
        day: a published day; the newest when None.
        artifact: where the model lies; by default among the warehouse's artifacts.
    Raises:
        NotFoundError: nothing, or not that day, is published; the user is not in the table; or the
            day's state was deleted.
        ArtifactError: the model that scored the day is not there.
    """
    found = lookup(warehouse, user_id, day, _ALL, _ALL)
    if not found.history:
        raise NotFoundError(
            f"the history behind the table of {found.ds} is gone: its state was deleted after "
            "keep_days. Name a newer --day, or the items by --artifact and --history"
        )
    folder = artifact or warehouse.artifacts / found.model_version
    if not folder.is_dir() or folder.resolve().name != found.model_version:
        raise ArtifactError(
            f"the table of {found.ds} was scored by model {found.model_version}, and {folder} is not "
            "that; name its folder by --artifact"
        )
    history = [str(item["item_id"]) for item in found.history[::-1] if item["is_read"]]
    asked = {*history, *(str(row["item_id"]) for row in found.recommendations)}
    run = warehouse.published_run(found.ds)
    return Asked(
        found.user_id,
        found.ds,
        found.run_id,
        folder,
        history,
        found.recommendations,
        _categories(warehouse.state_of(run), asked),
    )


def _categories(features: Path, item_ids: set[str]) -> dict[str, str]:
    with duckdb_over(features) as database:
        rows = database.execute(
            "SELECT item_id, category FROM read_parquet($items) "
            "WHERE category IS NOT NULL AND list_contains($ids, item_id)",
            {"items": f"{features}/items/*.parquet", "ids": sorted(item_ids)},
        ).fetchall()
    return dict(rows)
