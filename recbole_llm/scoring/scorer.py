"""Rank the catalogue for sequences of items."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_llm.errors import DataError
from recbole_llm.pairs import Pairs
from recbole_llm.scoring.artifact import Artifact, load_artifact
from recbole_llm.scoring.row_scorer import RowScorer
from recbole_llm.scoring.rules import Rules
from recbole_llm.scoring.topk import TopItems


@dataclass(frozen=True)
class TopK:
    """Ranked items of B sequences, best first."""

    item_ids: list[list[str]]
    """B lists of K external ids. A sequence without one known item has an empty list."""
    scores: list[NDArray[np.float32]]
    """B arrays of K scores, non-increasing."""
    n_known: list[int]
    """How many items of each sequence the model knows."""
    n_unknown: int
    """Items of all sequences that the model does not know; they were skipped."""


class Scorer(RowScorer):
    """Ranks items for histories by a trained model.

    Args:
        artifact: from ``load_artifact``.
        device: a torch device's name.
    """

    def __init__(self, artifact: Artifact, device: str = "cpu") -> None:
        super().__init__(artifact, device)
        self._row = {item_id: row for row, item_id in enumerate(artifact.item_ids, start=1)}

    @property
    def n_items(self) -> int:
        """Items that can be ranked."""
        return len(self.artifact.item_ids)

    def row(self, item_id: str) -> int:
        """An item's row of the item matrix; 0 for one that the model cannot read or rank."""
        return self._row.get(item_id, 0)

    def among(self, item_ids: Iterable[str], added: NDArray[np.float64] | None = None) -> TopItems:
        """Prepare a choice of items that ``rank`` and ``top_k`` may be restricted to.

        Args:
            item_ids: external ids, each once; those that the model does not know are left out.
            added: (items,) what is added to the score of each; None for nothing.
        """
        places = {self._row[item]: n for n, item in enumerate(item_ids) if item in self._row}
        rows = sorted(places)
        more = None
        if added is not None:
            more = torch.from_numpy(added[[places[row] for row in rows]].astype(np.float32))
        return self.top_items(torch.tensor(rows, dtype=torch.int64, device=self.device), more)

    def top_k(
        self,
        item_seqs: Sequence[Sequence[str]],
        k: int,
        exclude_seen: bool = True,
        eligible: Iterable[str] | TopItems | None = None,
    ) -> TopK:
        """Rank items for each sequence.

        Args:
            item_seqs: B sequences of external item ids, oldest first, of any length. The last
                ``max_seq_length`` known items are read; all of them count as seen.
            k: items wanted.
            exclude_seen: leave out what the sequence holds.
            eligible: the only items that may be ranked, best prepared by ``among``; None allows the
                whole catalogue.
        Raises:
            DataError: fewer than ``k`` items are left for some sequence.
        """
        choice = self._choice(eligible)
        flat, lengths = self._known(item_seqs)
        ranked, scores = self.rank(flat, lengths, k, Rules(exclude_seen, choice))
        n_unknown = sum(map(len, item_seqs)) - len(flat)
        return self._named(ranked, scores, lengths > 0, choice, lengths, n_unknown)

    @torch.inference_mode()
    def encode_history(self, item_seqs: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """Each history as one vector, which can be stored and given to ``decode`` at any later time.

        Args:
            item_seqs: B sequences of external item ids, as ``top_k`` takes them.
        Returns:
            (B, H) float32, whose product with an item's vector is its score; NaN for a sequence without
            one known item.
        """
        flat, lengths = self._known(item_seqs)
        vectors = np.full((len(lengths), self._config.hidden_size), np.nan, dtype=np.float32)
        for batch, part, sizes in self.batches(flat, lengths):
            states, _, _ = self.encode(part, sizes)
            vectors[batch] = states.cpu().numpy()
        return vectors

    @torch.inference_mode()
    def decode(
        self,
        vectors: NDArray[np.float32],
        k: int,
        seen: Sequence[Sequence[str]] | None = None,
        eligible: Iterable[str] | TopItems | None = None,
    ) -> TopK:
        """Rank items for the vectors of ``encode_history``, by the same artifact.

        With ``seen`` the lists are those of ``top_k``. Without, items that were met before may come
        again; the model's bias for them is not in the vector.

        Args:
            vectors: (B, H) float32; a row with NaN gets an empty list.
            k: items wanted.
            seen: B sequences of items to leave out.
            eligible: as in ``top_k``.
        Raises:
            DataError: vectors of another width, or fewer than ``k`` items are left for one.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self._config.hidden_size:
            raise DataError(
                f"vectors must be (B, {self._config.hidden_size}), as encode_history of this artifact "
                f"gives them, got {vectors.shape}"
            )
        choice = self._choice(eligible)
        rows, lengths = self._known(seen if seen is not None else [()] * len(vectors))
        is_usable = ~np.isnan(vectors).any(1)
        met = Pairs(np.repeat(np.arange(len(vectors)), lengths), rows)
        ranked, scores = self.rank_states(vectors, is_usable, met, k, choice)
        return self._named(ranked, scores, is_usable, choice, lengths, 0)

    def _choice(self, eligible: Iterable[str] | TopItems | None) -> TopItems | None:
        if eligible is None or isinstance(eligible, TopItems):
            return eligible
        return self.among(eligible)

    def _known(
        self, item_seqs: Sequence[Sequence[str]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of the items that the model knows, end to end, and (B,) lengths of the sequences."""
        rows = [[self._row[item] for item in seq if item in self._row] for seq in item_seqs]
        lengths = np.array([len(seq) for seq in rows], dtype=np.int64)
        return np.array([row for seq in rows for row in seq], dtype=np.int64), lengths

    def _named(
        self,
        ranked: NDArray[np.int64],
        scores: NDArray[np.float32],
        is_usable: NDArray[np.bool_],
        choice: TopItems | None,
        n_known: NDArray[np.int64],
        n_unknown: int,
    ) -> TopK:
        """(B, K) rows and scores by external ids; what is not usable gets an empty list."""
        k = ranked.shape[1]
        n_left = (ranked > 0).sum(axis=1)
        if (short := n_left[is_usable & (n_left < k)]).size:
            n_items = (choice or self.all_items).n_items
            raise DataError(
                f"k={k} items were asked for, but {short.min()} of {n_items} eligible items are left "
                "for a sequence; lower k or allow repeats"
            )
        ids = self.artifact.item_ids
        return TopK(
            [
                [ids[row - 1] for row in best] if usable else []
                for best, usable in zip(ranked.tolist(), is_usable, strict=True)
            ],
            [best if usable else best[:0] for best, usable in zip(scores, is_usable, strict=True)],
            n_known=n_known.tolist(),
            n_unknown=n_unknown,
        )


def load_scorer(path: Path | str, device: str = "cpu") -> Scorer:
    """Load an artifact and make it ready to rank.

    Args:
        path: an artifact folder.
        device: a torch device's name.
    Raises:
        ArtifactError: the artifact is absent, damaged or of another format.
    """
    return Scorer(load_artifact(Path(path)), device)
