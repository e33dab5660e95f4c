"""All that answers depend on, as it stands at one instant: a model, a catalogue, users.

A service asks by one snapshot while the next is made, and then by that one: nothing in it changes.
"""

import datetime
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_llm.errors import ArtifactError, NotFoundError
from recbole_llm.lists.catalogue import Catalogue, read_catalogue
from recbole_llm.lists.freshness import Freshness
from recbole_llm.lists.ranker import ListSettings, Ranker, read_list_settings
from recbole_llm.lists.strategy import RECENT
from recbole_llm.lists.users import Event, User
from recbole_llm.query import name_in_table
from recbole_llm.scoring import Artifact, load_scorer
from recbole_llm.serve.schemas import MAX_HISTORY
from recbole_llm.user_files import UserFile
from recbole_llm.warehouse import Warehouse

if TYPE_CHECKING:
    from recbole_llm.explain.explainer import Explainer

_log = logging.getLogger(__name__)
_READ = {
    "sequences": ["user_id", "item_ids", "timestamps", "market"],
    "opinions": ["user_id", "item_id", "says", "said_at"],
}
"""What the service reads of a user, by table of the day's state."""


@dataclass(frozen=True)
class Snapshot:
    """What stands; a new one is made where anything of it changes."""

    path: Path
    """The artifact's folder."""
    ranker: Ranker
    titles: Mapping[str, str]
    """Of the items that have one."""
    categories: Mapping[str, str]
    """Of the items that have one."""
    ds: str | None
    """The day whose catalogue and users it has; None for an artifact alone."""
    sequences: tuple[UserFile, ...]
    opinions: tuple[UserFile, ...]
    warehouse: Warehouse | None
    max_history: int = MAX_HISTORY
    """Newest events of a user's history that a night keeps."""

    @property
    def model_version(self) -> str:
        """The artifact's."""
        return self.ranker.scorer.artifact.model_version

    @cached_property
    def explainer(self) -> "Explainer":
        """Explains by the same artifact; loaded when it is first asked for."""
        from recbole_llm.explain.explainer import Explainer

        return Explainer(self.path)

    def user(self, user_id: str) -> User:
        """A user as of the published day.

        Raises:
            NotFoundError: there are no users here, or not this one.
        """
        if self.warehouse is None or self.ds is None:
            raise NotFoundError(
                "this service has no published table, so it knows no users; send their history"
            )
        name = name_in_table(self.warehouse, user_id, self.ds)
        rows = [row for file in self.sequences for row in file.rows(name)]
        if not rows:
            raise NotFoundError(f"user {user_id!r} is not in the table of {self.ds}")
        row = rows[0]
        met = zip(row["timestamps"], row["item_ids"], strict=True)
        said = (each for file in self.opinions for each in file.rows(name))
        return User(
            name,
            tuple(Event(second, item) for second, item in met),
            tuple(Event(each["said_at"], each["item_id"], each["says"]) for each in said),
            row["market"],
        )

    def some_users(self, n: int) -> list[str]:
        """The first N users, by the name that the table has for them."""
        found = [user for file in self.sequences for user in file.first_users(n)]
        return sorted(found)[:n]


class Source:
    """Where the newest model and table are.

    Args:
        warehouse: whose champion ranks and whose newest published day has catalogue and users.
        artifact: a model that ranks in the champion's place; the folder, or a link to it that is
            changed when another model comes.
    """

    def __init__(self, warehouse: Warehouse | None, artifact: Path | None) -> None:
        self._warehouse = warehouse
        self._artifact = artifact

    def mark(self) -> tuple[Any, ...]:
        """What is different whenever ``load`` would give something else.

        Raises:
            NotFoundError: there is no model.
        """
        run = self._run()
        return (str(self._model(run).resolve()), run and run["path"], run and self._state(run))

    def load(self) -> Snapshot:
        """Load what stands now.

        Raises:
            NotFoundError: there is no model.
            ArtifactError: what is there is damaged.
        """
        started = time.monotonic()
        run = self._run()
        path = self._model(run).resolve()
        scorer = load_scorer(path)
        artifact = scorer.artifact
        titles = dict(zip(artifact.item_ids, artifact.titles, strict=True))
        if run is None or self._warehouse is None:
            ranker = Ranker(scorer, _all_of(artifact), ListSettings())
            snapshot = Snapshot(path, ranker, titles, {}, None, (), (), None)
        else:
            features = self._warehouse.state_of(run)
            settings = run.get("settings", {})
            rules = replace(read_list_settings(settings), explain_ranks=0)
            markets, with_recent = settings.get("markets", []), rules.strategy.uses(RECENT)
            catalogue = read_catalogue(features, markets, _freshness(run), with_recent)
            snapshot = Snapshot(
                path, Ranker(scorer, catalogue, rules, path),
                titles | _of_items(features, "title"), _of_items(features, "category"), run["ds"],
                user_files(features, "sequences"), user_files(features, "opinions"), self._warehouse,
                settings.get("max_history", MAX_HISTORY),
            )  # fmt: skip
        _log.info(
            "model %s, %d items on sale, %s, %.1f s", snapshot.model_version,
            len(snapshot.ranker.catalogue.items),
            f"users of {snapshot.ds}" if snapshot.ds else "no users", time.monotonic() - started,
        )  # fmt: skip
        return snapshot

    def _model(self, run: dict[str, Any] | None) -> Path:
        if self._artifact is not None:
            return self._artifact
        if self._warehouse is None:
            raise NotFoundError("neither a warehouse nor an artifact to serve from")
        if run is None:
            return self._warehouse.champion_artifact()
        return self._warehouse.ranking_artifact(run["ds"])

    def _state(self, run: dict[str, Any]) -> str | None:
        """What the day's state is called; another name once somebody was forgotten."""
        assert self._warehouse is not None  # where the run is from
        if not (self._warehouse.features(run["ds"]) / "manifest.json").is_file():
            return None
        return str(self._warehouse.features_manifest(run["ds"])["fingerprint"])

    def _run(self) -> dict[str, Any] | None:
        if self._warehouse is None:
            return None
        days = self._warehouse.published_days()
        return days[max(days)] if days else None


def _freshness(run: dict[str, Any]) -> Freshness | None:
    """What age does to odds, as of the published day."""
    half_life_days = run.get("settings", {}).get("freshness_half_life_days", 0)
    if not half_life_days:
        return None
    return Freshness(datetime.date.fromisoformat(run["ds"]), half_life_days)


def _all_of(artifact: Artifact) -> Catalogue:
    """All items of a model, as popular as they were in its training."""
    n = len(artifact.item_ids)
    counts = np.array(artifact.n_events or [0] * n, dtype=np.float64)
    order = np.argsort(-counts, kind="stable")
    items = [artifact.item_ids[place] for place in order]
    nowhere = np.zeros(0, dtype=np.int64)
    shares = counts[order] / max(counts.sum(), 1)
    return Catalogue(items, shares, np.full(n, -1), {"": nowhere}, [])


def _of_items(features: Path, column: str) -> dict[str, str]:
    """A column of the day's items, by item, where it is not empty."""
    table = pq.read_table(
        features / "items", columns=["item_id", column], filters=pc.field(column) != ""
    )
    return dict(zip(table["item_id"].to_pylist(), table[column].to_pylist(), strict=True))


def user_files(features: Path, table: str) -> tuple[UserFile, ...]:
    """Open the files of a day's ``sequences`` or ``opinions``, sorted by user.

    Raises:
        ArtifactError: they are gone, or damaged.
    """
    folder = features / table
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is gone: the state of the published day was deleted; publish a newer day"
        )
    names = sorted(name for name in os.listdir(folder) if name.endswith(".parquet"))
    return tuple(UserFile(folder / name, _READ[table]) for name in names)
