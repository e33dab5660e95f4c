"""Whole-sequence training inside RecBole's own split, for any causal model.

RecBole's ``SequentialDataset`` makes a row of every prefix of every user: L copies of the work and
of the memory. A causal model predicts at all positions of a prefix in one pass, so for training it
needs only the few prefixes that cover each position once. This class keeps RecBole's rows as
(user, target, position) without their sequences, lets RecBole split them by its own code, thins the
training rows to windows, and cuts a batch's sequences out of one flat array when it is asked for.
"""

from collections import Counter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction, cat_interactions
from recbole.utils.enum_type import FeatureSource, FeatureType
from torch import Tensor

from recbole_llm.errors import ConfigError, DataError

IS_TRAINED = "is_trained"
"""(B, L) bool of a training batch: the positions whose next item counts in the loss."""
_POSITION = "target_position"
"""Where a row's target stands in the flat array; a field of ``inter_feat``, so it is split with it."""


class WholeSequenceDataset(SequentialDataset):  # type: ignore[misc]
    """RecBole's sequential dataset with one row a window of a user's training sequence.

    Rows, split and evaluation sequences equal those of ``SequentialDataset``; ties in time keep the
    file's order, as there.

    With ``train_since`` the training goes on from one on the events before that instant. The targets
    are the events since, and those that were held out while they were their user's newest. Older
    events are what is read before them and what items' counts know. Windows of older targets, drawn
    anew each time they are read, are mixed in so that these are not forgotten.

    Attributes:
        newest_window_alone: a user has one training row and what is before it is not learnt.
        train_since: in the unit of the time field; None learns from all events.
        replay_share: windows of older targets over those of new ones.
    """

    inter_feat: Any  # a DataFrame while loading, an Interaction afterwards
    newest_window_alone: bool = False
    train_since: float | None = None
    replay_share: float = 0.0
    _is_new: Tensor | None = None
    """By place in the flat array, of training windows with ``train_since``."""
    _older: Interaction | None = None
    """The windows to draw from, for the rows from ``_n_new`` on."""
    _n_new = 0

    def data_augmentation(self) -> None:
        """Make RecBole's rows, one a prefix, without the prefixes themselves."""
        self._check_field("uid_field", "time_field")
        if self.time_field not in self.inter_feat:
            raise DataError(
                f"a sequential model needs the time field {self.time_field!r} in "
                f"{self.dataset_path}/{self.dataset_name}.inter (TIME_FIELD, load_col)"
            )
        self.item_id_list_field = self.iid_field + self.config["LIST_SUFFIX"]
        self.set_field_property(
            self.item_id_list_field,
            FeatureType.TOKEN_SEQ,
            FeatureSource.INTERACTION,
            self.max_item_list_len,
        )
        self.set_field_property(
            self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1
        )
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        users = self.inter_feat[self.uid_field].numpy()
        self._flat_items: Tensor = self.inter_feat[self.iid_field].clone()
        self._flat_times: Tensor = self.inter_feat[self.time_field].clone()
        is_first = np.r_[True, users[1:] != users[:-1]]
        starts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
        targets = np.flatnonzero(~is_first)  # the first item of a user has no prefix
        lengths = np.minimum(targets - starts[targets], self.max_item_list_len)
        rows = self.inter_feat[targets]
        rows.update(
            Interaction(
                {
                    self.item_list_length_field: torch.from_numpy(lengths.astype(np.int64)),
                    _POSITION: torch.from_numpy(targets.astype(np.int64)),
                }
            )
        )
        self.inter_feat = rows

    def build(self) -> list[Self]:
        """Split as RecBole does, then thin the training rows to windows.

        Raises:
            ConfigError: nothing came since ``train_since``.
        """
        train, valid, test = super().build()
        rows = train.inter_feat
        if not len(rows):
            return [train, valid, test]
        windows = train.copy(rows)
        windows._split_rows = rows
        if self.train_since is None:
            windows.inter_feat = self._thinned(rows)
        else:
            held_out = torch.cat([part.inter_feat[self.uid_field] for part in (valid, test)])
            windows._learn_since(self.train_since, held_out)
        return [windows, valid, test]

    def _learn_since(self, instant: float, held_out: Tensor) -> None:
        """Keep the windows of new targets, and rows in whose place older windows are read.

        Args:
            held_out: user ids of the rows of validation and test.
        """
        rows = self._split_rows
        # A user's target was learnt before if as many events as are held out now had followed it.
        n_held_out = torch.bincount(held_out, minlength=self.user_num)
        followed_by = self._flat_times[rows[_POSITION] + n_held_out[rows[self.uid_field]]]
        is_new = followed_by >= torch.tensor(instant, dtype=torch.float32)  # as RecBole keeps times
        if not is_new.any():
            raise ConfigError(
                f"train_since is {instant:.10g} and the newest event is of "
                f"{self._flat_times.max():.10g}: there is nothing new to learn. Give an instant in "
                f"the unit of {self.time_field!r}, or leave train_since out to learn from all events"
            )
        self._is_new = torch.zeros(len(self._flat_items), dtype=torch.bool)
        self._is_new[rows[_POSITION]] = is_new
        new, older = self._thinned(rows[is_new]), self._thinned(rows[~is_new])
        self.inter_feat = new
        n_drawn = round(self.replay_share * len(new))
        if n_drawn and len(older):
            self._older, self._n_new = older, len(new)
            self.inter_feat = cat_interactions([new, older[torch.arange(n_drawn) % len(older)]])

    def _thinned(self, rows: Interaction) -> Interaction:
        """Keep of each user every L-th row from the last one back.

        A kept row's prefix and target hold the targets of the rows before it, up to L of them, so
        each row is predicted exactly once an epoch.
        """
        if not len(rows):
            return rows
        order = np.lexsort((rows[_POSITION].numpy(), rows[self.uid_field]))
        users = rows[self.uid_field].numpy()[order]
        is_last = np.r_[users[1:] != users[:-1], True]
        ends = np.flatnonzero(is_last)[np.cumsum(np.r_[0, is_last[:-1]])]
        steps_back = ends - np.arange(len(users))
        is_kept = steps_back % self.max_item_list_len == 0
        if self.newest_window_alone:
            is_kept = steps_back == 0
        return rows[np.sort(order[is_kept])]

    def training_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) items and (N,) the items that followed them, once for each row of the split."""
        rows = getattr(self, "_split_rows", self.inter_feat)
        positions = rows[_POSITION]
        return self._flat_items[positions - 1].numpy(), self._flat_items[positions].numpy()

    def training_sequences(self) -> list[NDArray[np.int64]]:
        """Each user's items in the split's rows, in a prefix or as a target, oldest first."""
        rows = getattr(self, "_split_rows", self.inter_feat)
        targets, users = rows[_POSITION].numpy(), rows[self.uid_field].numpy()
        positions, first = np.unique(np.r_[targets - 1, targets], return_index=True)
        owners = np.r_[users, users][first]
        items = self._flat_items.numpy()[positions]
        return np.split(items, np.flatnonzero(owners[1:] != owners[:-1]) + 1)

    def item_counts(self) -> NDArray[np.int64]:
        """(V,) events of each item in the split's rows, in a prefix or as a target."""
        rows = getattr(self, "_split_rows", self.inter_feat)
        positions = torch.unique(torch.cat([rows[_POSITION], rows[_POSITION] - 1]))
        return np.bincount(self._flat_items[positions].numpy(), minlength=self.item_num)

    def counter(self, field: str) -> Counter[int]:
        """Count a field's values over all rows of the split, not over the windows alone."""
        rows = getattr(self, "_split_rows", self.inter_feat)
        return Counter(rows[field].numpy())

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        rows = super().__getitem__(index, join)
        if self._older is not None:
            is_drawn = torch.as_tensor(index) >= self._n_new
            drawn = self._older[torch.randint(len(self._older), (int(is_drawn.sum()),))]
            for field in drawn:
                rows[field][is_drawn] = drawn[field]
        lengths = rows[self.item_list_length_field]
        starts = rows[_POSITION] - lengths
        steps = torch.arange(self.max_item_list_len)
        is_real_item = steps < lengths.unsqueeze(-1)  # (B, L)
        positions = torch.where(is_real_item, starts.unsqueeze(-1) + steps, 0)
        sequences = torch.where(is_real_item, self._flat_items[positions], 0)
        rows.update(Interaction({self.item_id_list_field: sequences}))
        if self._is_new is not None:
            is_older = ~self._is_new[rows[_POSITION]].unsqueeze(
                -1
            )  # (B, 1): drawn, all of it counts
            is_trained = is_real_item & (is_older | self._is_new[positions + 1])  # (B, L)
            rows.update(Interaction({IS_TRAINED: is_trained}))
        return rows
