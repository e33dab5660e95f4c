"""Rank users by the rules of a night: a model's items, and popular ones where it has too few.

What a Spark worker writes into the table and what a service answers is the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from recbole_llm.errors import ArtifactError, DataError
from recbole_llm.lists.catalogue import Catalogue, Popular
from recbole_llm.lists.sources import Readers, Sources
from recbole_llm.lists.strategy import SOURCES, Strategy, read_strategy
from recbole_llm.scoring import Feedback, Pairs, Rules, Scorer, why
from recbole_llm.scoring.item_neighbors import KINDS, ItemNeighbors, read_neighbors

OF_USERS = [
    "user_id", "item_ids", "blocked_ids", "disliked_ids", "unread_ids", "damped_categories", "market"
]  # fmt: skip
"""Columns of the users that are ranked, those of the state's sequences."""
_REASONS = pa.array(SOURCES, pa.string())


@dataclass(frozen=True)
class ListSettings:
    """What holds for all lists; ``configs/nightly.yaml`` says what each field means."""

    exclude_seen: bool = True
    max_per_category: int = 0
    dislike_weight: float = 0.0
    category_damping: float = 1.0
    explain_ranks: int = 0
    default_market: str = ""
    """Of users whose events name none; empty where there is one market only."""
    strategy: Strategy = field(default_factory=Strategy)


def read_list_settings(run: Mapping[str, Any]) -> ListSettings:
    """What a run's ``settings`` say of its lists; of an older version, as that version ranked."""
    markets = run.get("markets", [])
    names = (
        "exclude_seen",
        "max_per_category",
        "dislike_weight",
        "category_damping",
        "explain_ranks",
    )
    return ListSettings(
        **{name: run[name] for name in names if name in run},
        default_market=markets[0] if markets else "",
        strategy=read_strategy(run["strategy"]) if "strategy" in run else Strategy(),
    )


COLUMNS = pa.schema(
    [
        ("item_id", pa.string()),
        ("score", pa.float32()),
        ("reason", pa.string()),
        ("why", pa.string()),
    ]
)
"""Of a list; ``why`` is null where it is not said."""


@dataclass(frozen=True)
class Lists:
    """K rows a user; B users have a list."""

    rows: pa.Table
    """(B * K,) ``COLUMNS``, in the users' order and by rank."""
    short: dict[int, str] = field(default_factory=dict)
    """Places of the users who have none, for fewer than K items are left even with those met before,
    and what is to be said of each."""

    def places(self, n_users: int) -> NDArray[np.int64]:
        """(B,) places of those who have a list, among all who were asked for."""
        return np.delete(np.arange(n_users), [*self.short])


class Ranker:
    """Ranks users by a loaded model and a day's catalogue.

    Args:
        scorer: the model.
        catalogue: what may be recommended.
        settings: what holds for all lists.
        artifact: the model's folder, where the strategy has sources that lie beside it.
    Raises:
        ArtifactError: the strategy has a source that does not.
    """

    def __init__(
        self,
        scorer: Scorer,
        catalogue: Catalogue,
        settings: ListSettings,
        artifact: Path | None = None,
    ) -> None:
        self.scorer = scorer
        self.known = pa.array(scorer.artifact.item_ids, pa.string())
        self._items = pa.array(catalogue.items, pa.string())
        told = scorer.artifact
        self.names = [title or item for title, item in zip(told.titles, told.item_ids, strict=True)]
        self.catalogue = catalogue
        self._settings = settings
        self._rows = np.array([scorer.row(item) for item in catalogue.items], dtype=np.int64)
        self._among = scorer.among(catalogue.items, catalogue.added)
        self._categories = np.full(scorer.n_items + 1, -1, dtype=np.int64)
        self._categories[self._rows] = catalogue.categories
        self._categories[0] = -1
        self._rules: dict[str, Rules] = {}
        self._popular: dict[str, Popular] = {}
        self._sources: Sources | None = None
        if not settings.strategy.is_model_alone:
            neighbors = _neighbors(settings.strategy, scorer, artifact)
            self._sources = Sources(scorer, catalogue, self._rows, neighbors)

    def _rules_of(self, market: str) -> Rules:
        """What may stand in the lists of a market's users."""
        if market not in self._rules:
            rows = self._rows[self.catalogue.elsewhere[market]]
            self._rules[market] = Rules(
                exclude_seen=self._settings.exclude_seen,
                among=self._among,
                banned=torch.from_numpy(rows[rows > 0]) if len(rows) else None,
                categories=self._categories,
                max_per_category=self._settings.max_per_category,
                dislike_weight=self._settings.dislike_weight,
                category_damping=self._settings.category_damping,
            )
        return self._rules[market]

    def _popular_in(self, market: str) -> Popular:
        """What a market's users get where the model has nothing."""
        if market not in self._popular:
            settings = self._settings
            self._popular[market] = Popular(
                self.catalogue, market, settings.exclude_seen, settings.max_per_category,
                settings.category_damping,
            )  # fmt: skip
        return self._popular[market]

    def _known_of(self, lists: pa.ListArray) -> Pairs:
        """The model's rows of all lists' items that it knows, and whose each is."""
        return _numbered(lists, self.scorer.row)

    def _damped(self, lists: pa.ListArray) -> Pairs:
        """The numbers of all lists' categories that are on sale, and whose each is."""
        numbers = {name: place for place, name in enumerate(self.catalogue.category_names, start=1)}
        pairs = _numbered(lists, lambda name: numbers.get(name, 0))
        return Pairs(pairs.owners, pairs.values - 1)

    def lists(self, users: pa.RecordBatch, k: int) -> tuple[Lists, int]:
        """Rank users.

        Args:
            users: columns ``OF_USERS`` of the state's sequences.
            k: K, rows of a list.
        Returns:
            The lists, without rows for users in ``Lists.short``, and how many items of the histories
            the model does not know.
        """
        default = self._settings.default_market
        if not default:
            return self._of_market(users, "", k)
        markets = pc.fill_null(users["market"], default).dictionary_encode()
        names, numbers = markets.dictionary.to_pylist(), markets.indices.to_numpy()
        members = [np.flatnonzero(numbers == number) for number in range(len(names))]
        done = [
            self._of_market(users.take(those), market, k)
            for market, those in zip(names, members, strict=True)
        ]
        parts = [lists for lists, _ in done]
        parts_members = list(zip(parts, members, strict=True))
        at = [those[lists.places(len(those))] for lists, those in parts_members]
        order = rows_from(np.argsort(np.concatenate([*at, []])) * k, k)
        short = {
            int(those[place]): told
            for lists, those in parts_members
            for place, told in lists.short.items()
        }
        rows = pa.concat_tables([COLUMNS.empty_table(), *(lists.rows for lists in parts)])
        return Lists(rows.take(order), short), sum(unknown for _, unknown in done)

    def _of_market(self, users: pa.RecordBatch, market: str, k: int) -> tuple[Lists, int]:
        """The same for users of one market."""
        met = self._known_of(users["item_ids"])
        unread = self._known_of(users["unread_ids"])
        n_rows = self.scorer.n_items + 1
        is_read = np.ones(len(met.values), dtype=bool)
        if len(unread.values):
            theirs = unread.owners * n_rows + unread.values
            is_read = ~np.isin(met.owners * n_rows + met.values, theirs)
        blocked = self._known_of(users["blocked_ids"])
        waiting = self.catalogue.prerequisites.waiting(users["item_ids"])
        if len(waiting.owners):
            rows = self._rows[waiting.values]
            blocked = blocked.with_(Pairs(waiting.owners[rows > 0], rows[rows > 0]))
        if (
            self._settings.exclude_seen and not is_read.all()
        ):  # what is not read was met all the same
            blocked = blocked.with_(Pairs(met.owners[~is_read], met.values[~is_read]))
        feedback = Feedback(
            blocked, self._known_of(users["disliked_ids"]), self._damped(users["damped_categories"])
        )
        read = met.values[is_read]
        lengths = np.bincount(met.owners[is_read], minlength=len(users))
        if self._sources is None:
            ranked, scores = self.scorer.rank(read, lengths, k, self._rules_of(market), feedback)
            sources = np.zeros_like(ranked)
            items = self.known.take(pa.array(np.maximum(ranked.reshape(-1) - 1, 0)))
            is_there = ranked > 0
        else:
            readers = Readers(read, lengths, feedback, self._out(users).with_(waiting))
            n_met = pc.list_value_length(users["item_ids"]).to_numpy()
            places, scores, sources = self._sources.lists(
                readers, n_met, k, market, self._rules_of(market), self._settings.strategy
            )
            items = self._items.take(pa.array(np.maximum(places.reshape(-1), 0)))
            is_there = places >= 0
            ranked = np.where(is_there & (sources == 0), self._rows[places], 0)
        told = self._told(read, lengths, ranked)
        reasons = _REASONS.take(pa.array(sources.reshape(-1)))
        rows = pa.table([items, pa.array(scores.reshape(-1)), reasons, told], schema=COLUMNS)
        lists = self._filled(rows, users, market, k, is_there, waiting)
        n_unknown = len(users["item_ids"].flatten()) - len(met.values)
        return lists, n_unknown

    def _filled(
        self, rows: pa.Table, users: pa.RecordBatch, market: str, k: int, is_there: NDArray[np.bool_],
        waiting: Pairs,
    ) -> Lists:  # fmt: skip
        """Popular items where the model, or another source, has too few.

        Args:
            rows: K of each user.
            is_there: (B, K) whether a row is one; those of a user come first.
            waiting: places of the catalogue that require what a user has not met, rising by user.
        """
        incomplete = np.flatnonzero(~is_there[:, -1])
        if not len(incomplete):
            return Lists(rows)
        short: dict[int, str] = {}
        items, reasons = (
            np.array(rows[name].to_pylist(), dtype=object).reshape(-1, k)
            for name in ("item_id", "reason")
        )
        scores = rows["score"].to_numpy().reshape(-1, k).copy()
        popular = self._popular_in(market)
        for user, of_user in zip(
            incomplete.tolist(), users.take(incomplete).to_pylist(), strict=True
        ):
            n = int(is_there[user].sum())
            first, last = np.searchsorted(waiting.owners, [user, user + 1])
            wait = [self.catalogue.items[place] for place in waiting.values[first:last]]
            of_user["blocked_ids"] = [*of_user["blocked_ids"], *wait]
            try:
                more = popular.fill(of_user, items[user, :n].tolist(), k)
            except DataError as error:
                short[user] = str(error)
                continue
            items[user, n:] = [item for item, _, _ in more]
            reasons[user, n:] = [reason for _, _, reason in more]
            scores[user, n:] = [share for _, share, _ in more]
            # A share says nothing beside a score of the model: it stands no higher than the last.
            scores[user] = np.minimum.accumulate(scores[user])
        columns = [*(pa.array(each.reshape(-1)) for each in (items, scores, reasons)), rows["why"]]
        filled = Lists(pa.table(columns, schema=COLUMNS), short)
        if not short:
            return filled
        return Lists(filled.rows.take(rows_from(filled.places(len(users)) * k, k)), short)

    def _out(self, users: pa.RecordBatch) -> Pairs:
        """Places of the catalogue that single users do not get."""
        lists = [users["blocked_ids"]] + [users["item_ids"]] * self._settings.exclude_seen
        places = self.catalogue.positions
        found = [_numbered(each, lambda item: places.get(item, -1) + 1) for each in lists]
        both = found[0].with_(found[1]) if len(found) > 1 else found[0]
        return Pairs(both.owners, both.values - 1)

    def _told(
        self, rows: NDArray[np.int64], lengths: NDArray[np.int64], ranked: NDArray[np.int64]
    ) -> pa.Array:
        """(B * K,) why the first ranks stand where they stand; null where the model did not rank or no
        item carried the score."""
        said = np.full(ranked.shape, None, dtype=object)
        if n_ranks := self._settings.explain_ranks:
            found = why(self.scorer, rows, lengths, ranked[:, :n_ranks])
            said[:, :n_ranks] = [
                [sentence or None for sentence in of_user]
                for of_user in found.sentences(self.names)
            ]
        return pa.array(said.reshape(-1), pa.string())


def _neighbors(
    strategy: Strategy, scorer: Scorer, artifact: Path | None
) -> dict[str, ItemNeighbors]:
    """What the strategy's sources need beside the model."""
    wanted = [kind for kind in KINDS if strategy.uses(kind)]
    if not wanted:
        return {}
    assert artifact is not None, "the model's folder is known wherever a strategy may be set"
    found = read_neighbors(artifact, scorer.artifact)
    if missing := [kind for kind in wanted if kind not in found]:
        raise ArtifactError(
            f"artifact {artifact} has no neighbors of the sources {missing}: it was trained without "
            "texts, or in private; take other sources"
        )
    return found


def rows_from(starts: NDArray[np.int64], k: int) -> pa.Array:
    """The K rows from each start on, start by start."""
    return pa.array((starts[:, None] + np.arange(k)).reshape(-1))


def _numbered(lists: pa.ListArray, number: Callable[[str], int]) -> Pairs:
    """What lists hold by numbers, and whose each is; what has the number 0 is left out."""
    flat = lists.flatten()
    if not len(flat):  # as most users' wishes
        return Pairs()
    values = flat.dictionary_encode()
    of_each = [number(value) for value in values.dictionary.to_pylist()]
    numbers = np.array(of_each, dtype=np.int64)[values.indices.to_numpy()]
    owners = pc.list_parent_indices(lists).to_numpy()
    return Pairs(owners[numbers > 0], numbers[numbers > 0])
