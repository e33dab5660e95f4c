"""Rank rows of an item matrix for sequences of rows."""

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_llm.errors import ArtifactError
from recbole_llm.layers import Reader, RepeatBias, build_reader, last_states, score_vectors
from recbole_llm.losses import Adjustments
from recbole_llm.pairs import Pairs
from recbole_llm.scoring.artifact import Artifact
from recbole_llm.scoring.feedback import Feedback, is_damped, move_away
from recbole_llm.scoring.rules import Rules, first_within_cap
from recbole_llm.scoring.topk import TopItems

_BATCH = 256
"""Sequences encoded and ranked together."""
_DEPTH, _DEEPER = 2, 4
"""Times K items looked at where categories are capped or damped, and times as many again while too few
are sure."""
_NO_RULES = Rules()
_NO_FEEDBACK = Feedback()


class RowScorer:
    """Ranks by an artifact's rows; ``Scorer`` does by external ids.

    Args:
        artifact: from ``load_artifact``.
        device: a torch device's name.
    """

    def __init__(self, artifact: Artifact, device: str = "cpu") -> None:
        self.artifact = artifact
        self.device = torch.device(device)
        self._config = artifact.sequence_config
        self._encoder = build_reader(self._config)
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

    @property
    def sequence_encoder(self) -> Reader:
        """The network that reads histories."""
        return self._encoder

    @property
    def item_vectors(self) -> Tensor:
        """(V, H) float32 on the scorer's device; row 0 is padding and zero."""
        return self._items

    @cached_property
    def all_items(self) -> TopItems:
        """Every item, as a choice."""
        return self.top_items(None)

    @cached_property
    def _targets(self) -> Tensor:
        """(V, H) item vectors whose product with a state is the score."""
        return score_vectors(self._items, self._config)

    @cached_property
    def _centre(self) -> Tensor:
        """(H,) the middle of the catalogue."""
        return self._targets[1:].mean(0)

    def top_items(self, rows: Tensor | None, added: Tensor | None = None) -> TopItems:
        """A choice of rows, ascending, None for all; ``added`` to the score of each, (rows,)."""
        bias = self.artifact.item_bias.to(self.device)
        if rows is not None and added is not None:
            bias = bias.index_add(0, rows, added.to(self.device))
        return TopItems(self._targets, bias, rows)

    def batches(
        self, rows: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """Of sequences that are not empty some at a time: their numbers, their rows end to end, and
        how many each has."""
        ends, usable = lengths.cumsum(), np.flatnonzero(lengths)
        for start in range(0, len(usable), _BATCH):
            batch = usable[start : start + _BATCH]
            # Sequences between them are empty, so theirs stand together.
            part = rows[ends[batch[0]] - lengths[batch[0]] : ends[batch[-1]]]
            yield (
                batch,
                torch.from_numpy(part).to(self.device),
                torch.from_numpy(lengths[batch]).to(self.device),
            )

    @torch.inference_mode()
    def rank(
        self,
        rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        k: int,
        rules: Rules = _NO_RULES,
        feedback: Feedback = _NO_FEEDBACK,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rank items for sequences of the artifact's rows, one after the other in one array.

        Args:
            rows: (sum of lengths,) rows of the item matrix, 1..V-1, each sequence oldest first.
            lengths: (B,) items of each sequence; one without any is not ranked.
            k: items wanted.
            rules: what may stand in a list.
            feedback: what the sequences' users said.
        Returns:
            (B, K) rows, best first, and (B, K) scores, not rising. Where fewer are left than wanted,
            the rest is 0 and minus infinity; so is all of an empty sequence's.
        """
        ranked = np.zeros((len(lengths), k), dtype=np.int64)
        scores = np.full((len(lengths), k), -np.inf, dtype=np.float32)
        for batch, part, sizes in self.batches(rows, lengths):
            said = feedback.of(batch)
            states, adjustments = self._read(part, sizes, rules.exclude_seen, said.blocked)
            if len(said.disliked.owners):
                states = move_away(
                    states, self._targets, self._centre, said.disliked, rules.dislike_weight
                )
            best, best_scores = self._best(states, adjustments, k, rules, said.damped)
            ranked[batch, : best.shape[1]], scores[batch, : best.shape[1]] = best, best_scores
        return ranked, scores

    @torch.inference_mode()
    def rank_states(
        self,
        states: NDArray[np.float32],
        is_usable: NDArray[np.bool_],
        out: Pairs,
        k: int,
        among: TopItems | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rank items for states that ``encode`` gave at some time.

        Args:
            states: (B, H) float32.
            is_usable: (B,), false for what is not ranked.
            out: rows that keep out of the lists of single states.
            k: items wanted.
            among: the only items that may be ranked; None allows all.
        Returns:
            As ``rank`` does.
        """
        ranked = np.zeros((len(states), k), dtype=np.int64)
        scores = np.full((len(states), k), -np.inf, dtype=np.float32)
        usable = np.flatnonzero(is_usable)
        for start in range(0, len(usable), _BATCH):
            batch = usable[start : start + _BATCH]
            some = torch.from_numpy(states[batch]).to(self.device)
            best, best_scores = self._top(
                some, self._taken_out(out.of(batch)), k, Rules(False, among)
            )
            ranked[batch, : best.shape[1]], scores[batch, : best.shape[1]] = best, best_scores
        return ranked, scores

    @torch.inference_mode()
    def encode(self, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read sequences, as ``rank`` takes them.

        Args:
            rows: (sum of lengths,) int64.
            lengths: (B,) int64, at least 1 each.
        Returns:
            (B, H) states, whose product with item vectors is the score; (B, L) the rows that were
            read, right-padded with 0; (B,) how many.
        """
        item_seq, recent = self.windows(rows, lengths)
        states = last_states(self._encoder, self._items, item_seq, recent)
        return score_vectors(states, self._config), item_seq, recent

    def windows(self, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) the rows that ``encode`` reads, right-padded with 0, and (B,) how many."""
        owners = torch.arange(len(lengths), device=self.device).repeat_interleave(lengths)
        recent = lengths.clamp(max=self._config.max_seq_length)
        # Of each sequence the last items, moved to the start of a line.
        places = torch.arange(len(rows), device=self.device) - (lengths.cumsum(0) - recent)[owners]
        is_read = places >= 0
        item_seq = rows.new_zeros(len(lengths), int(recent.max()))
        item_seq[owners[is_read], places[is_read]] = rows[is_read]
        return item_seq, recent

    @torch.inference_mode()
    def score(
        self, rows: NDArray[np.int64], lengths: NDArray[np.int64], items: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score given items for sequences, met before or not, whatever the users said.

        Args:
            rows, lengths: B sequences, as ``rank`` takes them.
            items: (B, R) rows of the item matrix.
        Returns:
            (B, R) float32. After an empty sequence the state is zero: an item's own bias is left.
        """
        scores = self.artifact.item_bias.numpy()[items]
        for batch, part, sizes in self.batches(rows, lengths):
            states, item_seq, recent = self.encode(part, sizes)
            wanted = torch.from_numpy(items[batch]).to(self.device)  # (B, R)
            found = torch.einsum("bh,brh->br", states, self._targets[wanted])
            if self._repeats is not None:
                users = torch.arange(len(sizes), device=self.device)
                repeats = self._repeats(item_seq, users, recent - 1)
                is_same = wanted[repeats.rows] == repeats.items.unsqueeze(1)  # (P, R)
                found.index_add_(0, repeats.rows, is_same * repeats.values.unsqueeze(1))
            scores[batch] += found.cpu().numpy()
        return scores

    def _read(
        self, rows: Tensor, lengths: Tensor, exclude_seen: bool, blocked: Pairs
    ) -> tuple[Tensor, Adjustments]:
        """(B, H) states, and what is added to single scores."""
        states, item_seq, recent = self.encode(rows, lengths)
        users = torch.arange(len(lengths), device=self.device)
        taken_out = self._taken_out(blocked)
        if exclude_seen:
            out = torch.full(rows.shape, -torch.inf, device=self.device)
            return states, _both(
                Adjustments(users.repeat_interleave(lengths), rows, out), taken_out
            )
        if self._repeats is None:
            return states, taken_out
        repeats = self._repeats(item_seq, users, recent - 1)
        n_items = len(self._items)
        gone = taken_out.rows * n_items + taken_out.items
        is_free = ~torch.isin(repeats.rows * n_items + repeats.items, gone)
        return states, _both(Adjustments(*(part[is_free] for part in repeats)), taken_out)

    def _taken_out(self, pairs: Pairs) -> Adjustments:
        """What keeps rows out of the lists of some states."""
        owners, rows = (
            torch.from_numpy(each).to(self.device) for each in (pairs.owners, pairs.values)
        )
        return Adjustments(owners, rows, torch.full(rows.shape, -torch.inf, device=self.device))

    def _best(
        self, states: Tensor, adjustments: Adjustments, k: int, rules: Rules, damped: Pairs
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(B, K) rows and scores, 0 and minus infinity where fewer are left."""
        ranked = np.zeros((len(states), k), dtype=np.int64)
        best = np.full((len(states), k), -np.inf, dtype=np.float32)
        todo, depth = np.arange(len(states)), _DEPTH * k
        if rules.categories is None or not rules.max_per_category:
            todo = np.unique(damped.owners) if rules.categories is not None else todo[:0]
            others = np.delete(np.arange(len(states)), todo)
            if len(others):
                which = torch.from_numpy(others).to(self.device)
                some = _of(adjustments, which) if len(todo) else adjustments
                rows, scores = self._top(states[which], some, k, rules)
                ranked[others, : rows.shape[1]], best[others, : rows.shape[1]] = rows, scores
        while len(todo):
            assert rules.categories is not None
            which = torch.from_numpy(todo).to(self.device)
            rows, scores = self._top(states[which], _of(adjustments, which), depth, rules)
            is_all = (rows[:, -1] == 0) | (rows.shape[1] < depth)
            # What was not looked at scores no higher than the last that was, and damping adds nothing.
            floor = np.where(is_all, -np.inf, scores[:, -1])
            mask = is_damped(rules.categories[rows], todo, damped)
            scores = scores + np.where(mask, np.float32(math.log(rules.category_damping)), 0)
            order = np.argsort(-scores, axis=1, kind="stable")
            rows, scores = (np.take_along_axis(each, order, 1) for each in (rows, scores))
            is_sure = (rows > 0) & (scores >= floor[:, None])
            taken, n_taken = first_within_cap(
                rules.categories[rows], is_sure, rules.max_per_category or k, k
            )
            width = taken.shape[1]
            is_item = np.arange(width) < n_taken[:, None]
            ranked[todo, :width] = np.where(is_item, np.take_along_axis(rows, taken, 1), 0)
            best[todo, :width] = np.where(is_item, np.take_along_axis(scores, taken, 1), -np.inf)
            todo, depth = todo[~((n_taken == k) | is_all)], depth * _DEEPER
        return ranked, best

    def _top(
        self, states: Tensor, adjustments: Adjustments, k: int, rules: Rules
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        choice = rules.among or self.all_items
        scores, rows = choice(states, adjustments, k, rules.banned)
        return (rows * (scores > -torch.inf)).cpu().numpy(), scores.cpu().numpy()


def _both(first: Adjustments, second: Adjustments) -> Adjustments:
    return Adjustments(*(torch.cat(parts) for parts in zip(first, second, strict=True)))


def _of(adjustments: Adjustments, states: Tensor) -> Adjustments:
    """What is added to the scores of some states, in ascending order, alone."""
    place = torch.searchsorted(states, adjustments.rows).clamp(max=len(states) - 1)
    is_of = states[place] == adjustments.rows
    return Adjustments(place[is_of], adjustments.items[is_of], adjustments.values[is_of])
