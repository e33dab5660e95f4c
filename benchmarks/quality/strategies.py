"""The sources of a night's lists, and their blend, in RecBole's evaluation.

A night's lists leave out what a user met; here nothing is left out, as everywhere in this benchmark.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor

from benchmarks.quality.baselines import Popular
from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.item_links import content_neighbors, following_items
from recbole_llm.lists.fusion import FUSIONS, Ranked, fuse
from recbole_llm.lists.strategy import COLLABORATIVE, CONTENT, MODEL, POPULAR, RECENT
from recbole_llm.model import LLMSeqRec
from recbole_llm.scoring.item_neighbors import ItemNeighbors
from recbole_llm.sequences import WholeSequenceDataset

__all__ = [
    "Blend",
    "Collaborative",
    "Content",
    "DatedDataset",
    "DatedSequences",
    "LLMSeqRecDataset",
    "Recent",
]
_DEPTH = 100
_WEIGHTS = (0.1, 0.3, 1.0)
"""What a source is tried with beside the model's 1."""
_DAY_S = 86_400
_RECENT_DAYS = 7


class DatedSequences(WholeSequenceDataset):
    """Tells the days of its rows, whatever RecBole made of their times.

    Times that RecBole brings to 0 to 1, as its own settings of ml-100k do, keep their order to the
    second in float32. Left as they are they would keep it to two minutes, and the rows held out would
    be others than those of the other models.
    """

    _first_s = 0.0
    _unit_s = 1.0

    def _normalize(self) -> None:
        before = self.inter_feat[self.time_field].agg(["min", "max"])
        super()._normalize()
        after = self.inter_feat[self.time_field].agg(["min", "max"])
        if after["max"] > after["min"]:
            self._unit_s = np.ptp(before) / np.ptp(after)
        self._first_s = before["min"] - after["min"] * self._unit_s

    def days(self, times: Tensor) -> Tensor:
        """(N,) whole days since 1970 of (N,) times as the rows have them."""
        seconds = times.double() * self._unit_s + self._first_s
        return (seconds / _DAY_S).floor().long()

    def training_days(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) days and (N,) items of the training rows' targets."""
        _, items = self.training_pairs()
        rows = getattr(self, "_split_rows", self.inter_feat)
        return self.days(rows[self.time_field]).numpy(), items


class DatedDataset(DatedSequences, LLMSeqRecDataset):
    """The same of the model's rows, with texts."""


class Collaborative(Popular):
    """Scores an item by the rules from what was met to it; popularity breaks ties."""

    def __init__(self, config: Config, dataset: WholeSequenceDataset) -> None:
        super().__init__(config, dataset)
        self.neighbors = self.find_neighbors(config, dataset)
        self.tie_break = 1e-6 * self.counts / (1 + self.counts.sum())

    def find_neighbors(self, config: Config, dataset: Any) -> ItemNeighbors:
        """Each item's neighbors."""
        return following_items(dataset.training_sequences(), dataset.item_num)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, V) votes of the histories."""
        votes = _votes(self.neighbors, interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return torch.from_numpy(votes) + self.tie_break


class Content(Collaborative):
    """Scores an item by the likeness of its text to those of the items met."""

    def find_neighbors(self, config: Config, dataset: Any) -> ItemNeighbors:
        """Each item's neighbors."""
        return content_neighbors(torch.from_numpy(dataset.text_vectors(str(config["device"]))))


class Recent(Popular):
    """Scores an item by its training events in the week before the target's day, all of them older."""

    def __init__(self, config: Config, dataset: DatedSequences) -> None:
        super().__init__(config, dataset)
        days, items = dataset.training_days()
        self.days = dataset.days
        self.first_day = int(days.min())
        counts = np.zeros((int(days.max()) - self.first_day + 2, self.n_items), np.float32)
        np.add.at(counts, (days - self.first_day + 1, items), 1)
        self.until = torch.from_numpy(counts.cumsum(0))  # (days + 1, V) before each day
        self.tie_break = 1e-6 * self.counts / (1 + self.counts.sum())
        self.time_field = config["TIME_FIELD"]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, V) counts."""
        days = self.days(interaction[self.time_field]) - self.first_day
        last = days.clamp(0, len(self.until) - 1)
        first = (days - _RECENT_DAYS).clamp(0, len(self.until) - 1)
        return self.until[last] - self.until[first] + self.tie_break


class Blend(LLMSeqRec):
    """The default model, and what other sources add to it on the validation rows.

    Sources join one by one, each with the weight that helps most, as long as one helps; the best
    source alone is a blend too.
    """

    def __init__(self, config: Config, dataset: DatedDataset) -> None:
        super().__init__(config, dataset)
        self.others: dict[str, Any] = {
            POPULAR: Popular(config, dataset), COLLABORATIVE: Collaborative(config, dataset),
            RECENT: Recent(config, dataset),
        }  # fmt: skip
        if self.catalogue.text_vectors is not None:
            self.others[CONTENT] = Content(config, dataset)
        self.chosen: dict[str, Any] | None = None

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, V) scores: the model's until a blend is chosen; then items far down get -inf."""
        if self.chosen is None:
            return super().full_sort_predict(interaction)
        weights = self.chosen["sources"]
        lists = [self._list(name, interaction) for name in weights]
        fused = fuse(lists, [*weights.values()], self.chosen["fusion"], _DEPTH)
        scores = torch.full((len(interaction), self.n_items + 1), -torch.inf)
        places = torch.from_numpy(np.where(fused.items >= 0, fused.items, self.n_items))
        scores.scatter_(1, places, torch.from_numpy(fused.scores))
        return scores[:, :-1]

    def choose_blend(self, rows: Any) -> dict[str, Any]:
        """Take the blend that is best on rows, a loader's.

        Returns:
            ``sources`` with their weights, and ``fusion``.
        """
        self.eval()
        parts: dict[str, list[Ranked]] = {name: [] for name in (MODEL, *self.others)}
        targets = []
        with torch.inference_mode():
            for interaction, _, _, wanted in rows:
                targets.append(wanted.numpy())
                for name, lists in parts.items():
                    lists.append(self._list(name, interaction.to(self.device)))
        lists = {
            name: Ranked(*(np.concatenate(each) for each in zip(*found, strict=True)))
            for name, found in parts.items()
        }
        self.chosen = choose_blend(lists, np.concatenate(targets))
        return self.chosen

    def _list(self, name: str, interaction: Interaction) -> Ranked:
        if name == MODEL:
            scores = super().full_sort_predict(interaction)
        else:
            scores = self.others[name].full_sort_predict(interaction.to("cpu"))
        scores[:, 0] = -torch.inf
        best = scores.topk(min(_DEPTH, self.n_items - 1), dim=1)
        items = torch.where(best.values > -torch.inf, best.indices, -1)
        return Ranked(items.cpu().numpy(), best.values.cpu().numpy())


def choose_blend(lists: dict[str, Ranked], targets: NDArray[np.int64]) -> dict[str, Any]:
    """Add sources one by one while the NDCG@10 of the targets rises.

    Args:
        lists: of N users by source, ``model`` among them.
        targets: (N,) each user's item.
    """

    def score(weights: dict[str, float], fusion: str) -> float:
        given = [lists[name] for name in weights]
        found = fuse(given, [*weights.values()], fusion, 10).items
        is_hit = found == targets[:, None]
        return float((is_hit / np.log2(np.arange(2, 12))).sum(1).mean())

    alone = {name: score({name: 1.0}, "rank") for name in lists}
    first = max(alone, key=lambda name: alone[name])
    best, found = alone[first], {"sources": {first: 1.0}, "fusion": "rank"}
    for fusion in FUSIONS:
        weights = {MODEL: 1.0}
        while left := [name for name in lists if name not in weights]:
            tried = {
                (name, weight): score({**weights, name: weight}, fusion)
                for name in left
                for weight in _WEIGHTS
            }
            name, weight = max(tried, key=lambda each: tried[each])
            if tried[name, weight] <= max(best, score(weights, fusion)):
                break
            weights = {**weights, name: weight}
            best, found = tried[name, weight], {"sources": weights, "fusion": fusion}
    return found


def _votes(neighbors: ItemNeighbors, item_seq: Tensor, lengths: Tensor) -> NDArray[np.float32]:
    """(B, V) what right-padded (B, L) histories of (B,) lengths say of all items."""
    rows = item_seq[item_seq > 0].cpu().numpy()  # row by row, as they stand
    owners, items, votes = neighbors.votes(rows, lengths.cpu().numpy())
    scores = np.zeros((len(item_seq), len(neighbors.items)), dtype=np.float32)
    scores[owners, items] = votes
    return scores
