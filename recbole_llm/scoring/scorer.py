"""Rank the catalogue for sequences of items, block by block of the item matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_llm.errors import ArtifactError, DataError
from recbole_llm.layers import RepeatBias, SequenceEncoder, last_states, score_vectors
from recbole_llm.losses import Adjustments, no_adjustments
from recbole_llm.scoring.artifact import Artifact, load_artifact

_BATCH = 256
"""Sequences encoded and ranked together."""
_BLOCK = 65_536
"""Item rows multiplied together: 16 MiB of vectors at H = 64."""


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


class Scorer:
    """Ranks items for histories by a trained model.

    Args:
        artifact: from ``load_artifact``.
        device: a torch device's name.
    """

    def __init__(self, artifact: Artifact, device: str = "cpu") -> None:
        self.artifact = artifact
        self.device = torch.device(device)
        self._config = artifact.sequence_config
        self._encoder = SequenceEncoder(self._config)
        self._repeats = RepeatBias(self._config.repeat_lags) if self._config.repeat_lags else None
        try:
            self._encoder.load_state_dict(artifact.encoder_weights)
            if self._repeats is not None:
                self._repeats.load_state_dict(artifact.repeat_weights)
        except RuntimeError as error:
            raise ArtifactError(f"weights do not fit the network: {error}") from None
        self._encoder.to(self.device).eval()
        if self._repeats is not None:
            self._repeats.to(self.device)
        self._items = artifact.item_matrix.to(self.device)  # (V, H)
        self._targets = score_vectors(self._items, self._config)  # (V, H)
        self._bias = artifact.item_bias.to(self.device)  # (V,)
        self._row = {item_id: row for row, item_id in enumerate(artifact.item_ids, start=1)}

    @property
    def n_items(self) -> int:
        """Items that can be ranked."""
        return len(self.artifact.item_ids)

    def knows(self, item_id: str) -> bool:
        """Whether the model can rank this item and read it in a sequence."""
        return item_id in self._row

    @torch.inference_mode()
    def top_k(
        self,
        item_seqs: Sequence[Sequence[str]],
        k: int,
        exclude_seen: bool = True,
        eligible: Sequence[str] | None = None,
    ) -> TopK:
        """Rank items for each sequence.

        Args:
            item_seqs: B sequences of external item ids, oldest first, of any length. The last
                ``max_seq_length`` known items are read; all of them count as seen.
            k: items wanted.
            exclude_seen: leave out what the sequence holds.
            eligible: the only items that may be ranked; None allows the whole catalogue.
        Raises:
            DataError: fewer than ``k`` items are left for some sequence.
        """
        allowed = self._allowed(eligible)
        rows = [[self._row[item] for item in seq if item in self._row] for seq in item_seqs]
        n_eligible = self.n_items if allowed is None else int(allowed.sum())
        for seq in rows:
            n_seen = len(set(seq)) if exclude_seen else 0
            if seq and n_eligible - n_seen < k:
                # Seen items may be ineligible anyway, so count exactly before refusing.
                left = n_eligible - sum(
                    allowed is None or bool(allowed[row]) for row in set(seq) if exclude_seen
                )
                if left < k:
                    raise DataError(
                        f"k={k} items were asked for, but {left} of {n_eligible} eligible items are "
                        f"left for a sequence that has seen {n_seen}; lower k or allow repeats"
                    )
        item_ids: list[list[str]] = [[] for _ in rows]
        scores: list[NDArray[np.float32]] = [np.empty(0, np.float32) for _ in rows]
        usable = [index for index, seq in enumerate(rows) if seq]
        for start in range(0, len(usable), _BATCH):
            batch = usable[start : start + _BATCH]
            seen = [rows[index] for index in batch]
            states, adjustments = self._encode(seen)
            if exclude_seen:
                adjustments = _exclusions(seen, self.device)
            values, found = self._rank(states, adjustments, k, allowed)
            for index, value, row in zip(batch, values.cpu().numpy(), found.tolist(), strict=True):
                item_ids[index] = [self.artifact.item_ids[r - 1] for r in row]
                scores[index] = value
        return TopK(
            item_ids,
            scores,
            n_known=[len(seq) for seq in rows],
            n_unknown=sum(map(len, item_seqs)) - sum(map(len, rows)),
        )

    def _allowed(self, eligible: Sequence[str] | None) -> Tensor | None:
        if eligible is None:
            return None
        allowed = torch.zeros(len(self._items), dtype=torch.bool, device=self.device)
        allowed[[self._row[item] for item in eligible if item in self._row]] = True
        return allowed

    def _encode(self, rows: list[list[int]]) -> tuple[Tensor, Adjustments]:
        """(B, H) states, ready for a product with item vectors, and what repeats add to it."""
        longest = min(max(map(len, rows)), self._config.max_seq_length)
        item_seq = torch.zeros(len(rows), longest, dtype=torch.int64)
        for index, seq in enumerate(rows):
            recent = seq[-longest:]
            item_seq[index, : len(recent)] = torch.tensor(recent)
        item_seq = item_seq.to(self.device)
        item_seq_len = (item_seq > 0).sum(1)
        states = last_states(self._encoder, self._items, item_seq, item_seq_len)
        adjustments = no_adjustments(states)
        if self._repeats is not None:
            users = torch.arange(len(rows), device=self.device)
            adjustments = self._repeats(item_seq, users, item_seq_len - 1)
        return score_vectors(states, self._config), adjustments

    def _rank(
        self, states: Tensor, adjustments: Adjustments, k: int, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, K) scores and item rows, best first; equal scores come in no promised order."""
        best_scores = states.new_full((len(states), 0), 0.0)
        best_rows = torch.zeros(len(states), 0, dtype=torch.int64, device=self.device)
        users, items, values = adjustments
        for start in range(1, len(self._targets), _BLOCK):
            block = self._targets[start : start + _BLOCK]
            bias = self._bias[start : start + _BLOCK]
            scores = torch.addmm(bias, states, block.T)  # (B, block)
            if allowed is not None:
                scores[:, ~allowed[start : start + _BLOCK]] = -torch.inf
            inside = (items >= start) & (items < start + len(block))
            scores[users[inside], items[inside] - start] += values[inside]
            top, index = scores.topk(min(k, len(block)), dim=1)
            best_rows = torch.cat([best_rows, index + start], dim=1)
            best_scores = torch.cat([best_scores, top], dim=1)
            best_scores, order = best_scores.topk(min(k, best_scores.shape[1]), dim=1)
            best_rows = best_rows.gather(1, order)
        return best_scores, best_rows


def _exclusions(seen: list[list[int]], device: torch.device) -> Adjustments:
    """Minus infinity for every item of every sequence."""
    pairs = [(user, item) for user, rows in enumerate(seen) for item in set(rows)]
    users, items = torch.tensor(pairs, dtype=torch.int64, device=device).view(-1, 2).unbind(1)
    return Adjustments(users, items, torch.full(users.shape, -torch.inf, device=device))


def load_scorer(path: Path | str, device: str = "cpu") -> Scorer:
    """Load an artifact and make it ready to rank.

    Args:
        path: an artifact folder.
        device: a torch device's name.
    Raises:
        ArtifactError: the artifact is absent, damaged or of another format.
    """
    return Scorer(load_artifact(Path(path)), device)
