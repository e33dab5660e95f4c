"""What LLMSeqRec is held against: two counting models, and RecBole's networks on whole sequences.

RecBole trains its sequential models on one row a prefix, which takes hours on a CPU. A causal
network gives the same loss terms in one pass over the whole sequence; the classes here are
RecBole's own networks with only that changed. ``sasrec-stock`` runs RecBole's rows, to hold beside.
"""

from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import BERT4Rec, GRU4Rec, SASRec
from recbole.utils import InputType
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional

from recbole_llm.losses import cross_entropy, next_items, one_target
from recbole_llm.sequences import WholeSequenceDataset

__all__ = [
    "ClosedWindows",
    "Markov",
    "Popular",
    "SequentialDataset",
    "WholeBERT4Rec",
    "WholeGRU4Rec",
    "WholeSASRec",
    "WholeSequenceDataset",
]


class Popular(SequentialRecommender):  # type: ignore[misc]
    """Scores an item by how often it was a target in training."""

    input_type = InputType.POINTWISE

    def __init__(self, config: Config, dataset: WholeSequenceDataset) -> None:
        super().__init__(config, dataset)
        _, following = dataset.training_pairs()
        self.nothing = nn.Parameter(torch.zeros(1))  # RecBole's trainer wants a parameter
        counts = np.bincount(following, minlength=self.n_items)
        self.register_buffer("counts", torch.from_numpy(counts).float())

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Zero: counting is all the training."""
        return self.nothing.sum()

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, V) counts."""
        return self.counts.repeat(len(interaction), 1)


class Markov(Popular):
    """Scores an item by how often it followed the user's last item; popularity breaks ties."""

    def __init__(self, config: Config, dataset: WholeSequenceDataset) -> None:
        super().__init__(config, dataset)
        pairs = dataset.training_pairs()
        shape = (self.n_items, self.n_items)
        self.transitions = csr_matrix((np.ones(len(pairs[0]), np.float32), pairs), shape)
        self.tie_break = self.counts / (1 + self.counts.sum())

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, V) counts of transitions from the last item."""
        rows = torch.arange(len(interaction))
        last = interaction[self.ITEM_SEQ][rows, interaction[self.ITEM_SEQ_LEN] - 1]
        return torch.from_numpy(self.transitions[last.numpy()].toarray()) + self.tie_break


def _length_groups(item_seq_len: Tensor) -> list[Tensor]:
    """Split a batch so that no sequence is padded to more than twice its length, or to eight.

    Most histories are short and one in a batch is long; padding all to that one would be most of
    the work.

    Args:
        item_seq_len: (B,) int64.
    Returns:
        Row numbers, each row in one group.
    """
    sizes = (item_seq_len.clamp(min=8) - 1).log2().floor()  # 2 up to 8 items, 3 up to 16, ...
    return [(sizes == size).nonzero().squeeze(1) for size in torch.unique(sizes)]


class _EveryPosition:
    """Turns a causal RecBole network's loss at the last position into one at every position."""

    every_position = False

    def gather_indexes(self, output: Tensor, gather_index: Tensor) -> Tensor:
        """The last real state, as RecBole takes it; in training, all of them."""
        if self.every_position:
            return output
        gathered: Tensor = super().gather_indexes(output, gather_index)  # type: ignore[misc]
        return gathered

    def calculate_loss(self: Any, interaction: Interaction) -> Tensor:
        """Mean cross-entropy over the catalogue at every real position of the batch's windows."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        states, targets = [], []
        self.every_position = True
        for group in _length_groups(lengths):
            sequences = item_seq[group, : int(lengths[group].max())]
            last = interaction[self.POS_ITEM_ID][group]
            following = next_items(sequences, lengths[group], last, n_targets=1, decay=1.0)
            is_real_item = sequences > 0
            states.append(self(sequences, lengths[group])[is_real_item])  # (N, H)
            targets.append(following.items[is_real_item].squeeze(1))  # (N,)
        self.every_position = False
        return cross_entropy(
            torch.cat(states), self.item_embedding.weight, one_target(torch.cat(targets))
        )


class WholeSASRec(_EveryPosition, SASRec):  # type: ignore[misc]
    """RecBole's SASRec, trained at every position of a window."""


class WholeGRU4Rec(_EveryPosition, GRU4Rec):  # type: ignore[misc]
    """RecBole's GRU4Rec, trained at every position of a window."""


class ClosedWindows(WholeSequenceDataset):
    """Windows that end with their target: a masked model learns from all items it reads."""

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        rows = super().__getitem__(index, join)
        if not hasattr(self, "_split_rows"):
            return rows  # the two evaluation rows keep their target apart
        items, lengths = rows[self.item_id_list_field], rows[self.item_list_length_field]
        is_full = lengths == self.max_item_list_len
        items = torch.where(is_full.unsqueeze(-1), items.roll(-1, dims=1), items)
        lengths = (lengths + 1).clamp(max=self.max_item_list_len)
        items[torch.arange(len(items)), lengths - 1] = rows[self.iid_field]
        rows.update(
            Interaction({self.item_id_list_field: items, self.item_list_length_field: lengths})
        )
        return rows


class WholeBERT4Rec(BERT4Rec):  # type: ignore[misc]
    """RecBole's BERT4Rec on one row a window, with the cross-entropy at the masked positions alone.

    RecBole's own loss multiplies every padded mask slot with the catalogue, which is most of them,
    and leaves a mask on a sequence's first item out; here each masked item is predicted.
    """

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean cross-entropy over the masked items of the batch."""
        masked, lengths = interaction[self.MASK_ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        is_masked = masked == self.mask_token
        if not is_masked.any():
            return self.output_bias.sum() * 0
        states, originals = [], []
        for group in _length_groups(lengths):
            part = slice(int(lengths[group].max()))
            states.append(self(masked[group, part])[is_masked[group, part]])  # (N, H)
            originals.append(interaction[self.ITEM_SEQ][group, part][is_masked[group, part]])
        # The output's bias as one more factor of the product.
        rows = functional.pad(torch.cat(states), (0, 1), value=1.0)  # (N, H + 1)
        items = self.item_embedding.weight[: self.n_items]
        items = torch.cat([items, self.output_bias.unsqueeze(1)], dim=1)  # (V, H + 1)
        return cross_entropy(rows, items, one_target(torch.cat(originals)))
