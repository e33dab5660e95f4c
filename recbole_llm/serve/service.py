"""What the service does, apart from HTTP: it ranks, looks up, explains, and follows what is newest."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from recbole_llm.errors import DataError, NotFoundError, UnavailableError
from recbole_llm.lists.users import Event, User, as_batch
from recbole_llm.parquet_tables import ParquetTables
from recbole_llm.query import name_in_table
from recbole_llm.serve.batcher import Batcher
from recbole_llm.serve.settings import ServeSettings
from recbole_llm.serve.snapshot import Snapshot, Source
from recbole_llm.warehouse import Warehouse

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Row:
    """A rank of a list."""

    item_id: str
    score: float
    reason: str
    why: str | None = None


@dataclass(frozen=True)
class Ranked:
    """A user's list, and the snapshot that it was made by."""

    user: User
    rows: list[Row]
    snapshot: Snapshot


class Service:
    """Answers by the newest snapshot.

    Args:
        source: where models and tables come from.
        settings: limits.
        warehouse: whose published table is read out, if there is one.
    """

    def __init__(
        self, source: Source, settings: ServeSettings, warehouse: Warehouse | None
    ) -> None:
        self.settings = settings
        self.n_swaps = 0
        self.n_failed_swaps = 0
        self._source = source
        self._warehouse = warehouse
        self._mark = source.mark()
        self.snapshot = source.load()
        self._tables = ParquetTables(warehouse) if warehouse else None
        self._ranking: Batcher[tuple[User, int], Ranked] = Batcher(self._rank, settings.batch_size)
        # Open files are not for several threads at once, nor is what explains.
        self._reading = ThreadPoolExecutor(1, "reading")
        self._explaining = ThreadPoolExecutor(1, "explaining")
        self._loading = ThreadPoolExecutor(1, "loading")
        self._n_explaining = 0

    async def recommend(self, user: User, k: int) -> Ranked:
        """Rank for a user.

        Raises:
            DataError: an unknown market, or fewer than K items are left.
        """
        elsewhere = self.snapshot.ranker.catalogue.elsewhere
        if user.market is not None and "" not in elsewhere and user.market not in elsewhere:
            raise DataError(f"market must be one of {sorted(elsewhere)}, got {user.market!r}")
        return await self._ranking.ask((user, k))

    async def user(self, user_id: str) -> User:
        """A user of the published day.

        Raises:
            NotFoundError: they are not there.
        """
        return await self.read(lambda: self.snapshot.user(user_id))

    async def table_rows(self, user_id: str, k: int) -> list[dict[str, Any]]:
        """A user's first K rows of the newest published table.

        Raises:
            NotFoundError: there is no table, or the user is not in it.
        """
        return await self.read(lambda: self._table_rows(user_id, k))

    async def read(self, work: Callable[[], _Answer]) -> _Answer:
        """Do what reads files, on the thread that reads them."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    async def explain(
        self, user: User, items: Sequence[str] | None, k: int
    ) -> tuple[Snapshot, Any]:
        """The snapshot, and why items suit a user; by default the first ranks of the model.

        Raises:
            UnavailableError: enough others are being explained.
            NotFoundError: the model knows nothing of the history, or not an item.
        """
        if self._n_explaining >= self.settings.max_explaining:
            raise UnavailableError(f"{self._n_explaining} explanations are being made; try again")
        self._n_explaining += 1
        try:
            ranked = await self.recommend(user, k)
            wanted = items or [row.item_id for row in ranked.rows if row.reason == "model"]
            if not wanted:
                raise NotFoundError("the model knows no item of the history; nothing to explain")
            history = history_of(ranked.snapshot, user)[::-1]
            found = await asyncio.get_running_loop().run_in_executor(
                self._explaining,
                lambda: ranked.snapshot.explainer.explain(
                    history, wanted, ranked.snapshot.categories
                ),
            )
            return ranked.snapshot, found
        finally:
            self._n_explaining -= 1

    async def follow(self) -> None:
        """Take in each new model and table, until it is cancelled."""
        while True:
            await asyncio.sleep(self.settings.refresh_s)
            await self.refresh()

    async def refresh(self) -> None:
        """Take in a new model and table, if there are some. Requests go on by what is there, which
        stays where the new cannot be loaded."""
        loop = asyncio.get_running_loop()
        try:
            mark = self._source.mark()
            if mark == self._mark:
                return
            started = time.monotonic()
            snapshot = await loop.run_in_executor(self._loading, self._source.load)
        except Exception as error:  # noqa: BLE001 (the next model and table are to come in)
            self.n_failed_swaps += 1
            _log.error("what is newest cannot be loaded, %s goes on: %s: %s",
                       self.snapshot.model_version, type(error).__name__, error)  # fmt: skip
            return
        self._mark, self.snapshot = mark, snapshot
        self.n_swaps += 1
        _log.info("swapped to %s after %.1f s", snapshot.model_version, time.monotonic() - started)

    def close(self) -> None:
        """Let the threads end."""
        self._ranking.close()
        for executor in (self._reading, self._explaining, self._loading):
            executor.shutdown(wait=False, cancel_futures=True)

    def _table_rows(self, user_id: str, k: int) -> list[dict[str, Any]]:
        if self._tables is None or self._warehouse is None:
            raise NotFoundError("this service has no published table")
        name = name_in_table(self._warehouse, user_id, None)
        rows = self._tables.user_rows(name, None, k)
        if not rows:
            raise NotFoundError(f"user {user_id!r} is not in the newest table")
        return [{**row, "user_id": name} for row in rows]

    def _rank(self, asked: Sequence[tuple[User, int]]) -> list[Ranked | Exception]:
        return _ranked(self.snapshot, asked)


def history_of(snapshot: Snapshot, user: User) -> list[str]:
    """What is read of a user's history, newest first."""
    unread = {*user.wishes(snapshot.categories)["unread_ids"]}
    return [event.item_id for event in reversed(user.met) if event.item_id not in unread]


def _ranked(snapshot: Snapshot, asked: Sequence[tuple[User, int]]) -> list[Ranked | Exception]:
    """Rank for several users together; an error is for whom fewer than K items are left."""
    users = as_batch([user for user, _ in asked], snapshot.categories)
    most = max(k for _, k in asked)
    lists, _ = snapshot.ranker.lists(users, most)
    ranked = [Row(row["item_id"], row["score"], row["reason"]) for row in lists.rows.to_pylist()]
    starts = iter(range(0, len(ranked), most))
    found: list[Ranked | Exception] = []
    for place, (user, k) in enumerate(asked):
        if place not in lists.short:
            start = next(starts)
            found.append(Ranked(user, ranked[start : start + k], snapshot))
        elif k < most:  # so many may be left
            found += _ranked(snapshot, [(user, k)])
        else:
            found.append(DataError(lists.short[place]))
    return found


def user_after(
    user: User, events: Sequence[tuple[str, str, int | None]], market: str | None, most: int
) -> User:
    """A user after events, oldest first; those without a time come after all that has one.

    Args:
        events: item, what it says, Unix seconds or None.
        most: newest events of the history that are kept.
    """
    newest = max([0, *(each.timestamp for each in (*user.met, *user.said))])
    told = []
    for item, says, second in events:
        newest = newest + 1 if second is None else max(newest, second)
        told.append(Event(newest if second is None else second, item, says))
    return user.after(told, market, most)
