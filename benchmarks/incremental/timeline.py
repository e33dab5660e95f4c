"""A data set's events in the order of time: a start, and periods of equally many events after it."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm.judge import Event


class Timeline:
    """The first half of the events is block 0; the other half is blocks of equal numbers of events.

    Ties in time keep the file's order.

    Args:
        folder: an atomic data set's, with ``.inter`` and ``.item``.
        n_blocks: after block 0.
    """

    def __init__(self, folder: Path, n_blocks: int) -> None:
        self.folder = folder
        events = _read(folder / f"{folder.name}.inter")
        self._head = list(events.columns)
        events.columns = [column.split(":")[0] for column in self._head]
        order = events["timestamp"].astype(float).argsort(kind="stable")
        self._events = events.iloc[order].reset_index(drop=True)
        half = len(events) // 2
        ends = np.linspace(half, len(events), n_blocks + 1).astype(int)
        self._ends: list[int] = ends.tolist()

    def _until(self, block: int) -> pd.DataFrame:
        return self._events.iloc[: self._ends[block]]

    def _of(self, block: int) -> pd.DataFrame:
        return self._events.iloc[self._ends[block - 1] if block else 0 : self._ends[block]]

    def since(self, block: int) -> float:
        """The time of a block's first event."""
        return float(self._of(block)["timestamp"].iloc[0])

    def items(self, block: int) -> set[str]:
        """The items that a block's events are of."""
        return set(self._of(block)["item_id"])

    def catalogue(self, block: int) -> list[str]:
        """What can be recommended after a block: all items met up to the end of the next."""
        return sorted(set(self._until(block + 1)["item_id"]))

    def targets(self, block: int) -> list[Event]:
        """The first event in a block of each user who had one before, after all those."""
        past = self._until(block - 1)
        first = self._of(block).drop_duplicates("user_id")
        first = first[first["user_id"].isin(set(past["user_id"]))]
        histories = past[past["user_id"].isin(set(first["user_id"]))].groupby("user_id")["item_id"]
        history = {user: list(items) for user, items in histories}
        return [
            Event(user, [*history[user], item], len(history[user]))
            for user, item in zip(first["user_id"], first["item_id"], strict=True)
        ]

    def new_users(self, block: int) -> int:
        """Users of a block who had no event before."""
        return len(set(self._of(block)["user_id"]) - set(self._until(block - 1)["user_id"]))

    def write(self, block: int, parent: Path) -> str:
        """Write the events up to the end of a block, and the catalogue after it.

        Returns:
            The data set's name under ``parent``.
        """
        name = f"{self.folder.name}-{block}"
        folder = parent / name
        folder.mkdir(parents=True, exist_ok=True)
        events = self._until(block).sort_values("user_id", kind="stable")
        _write(events, self._head, folder / f"{name}.inter")
        items = _read(self.folder / f"{self.folder.name}.item")
        ids = next(column for column in items.columns if column.split(":")[0] == "item_id")
        items = items[items[ids].isin(self.catalogue(block))]
        _write(items, list(items.columns), folder / f"{name}.item")
        return name


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False)


def _write(table: pd.DataFrame, head: list[str], path: Path) -> None:
    table.to_csv(path, sep="\t", index=False, header=head, quoting=csv.QUOTE_NONE)
