"""What training minimises: at every position of a batch, the cross-entropy of the items that follow.

Sizes: B sequences, L items in a sequence, N trained positions, M targets of each, C candidates, H
hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_llm.catalogue import Catalogue
from recbole_llm.layers import Network, SequenceConfig, score_vectors
from recbole_llm.losses import (
    Candidates,
    Targets,
    all_candidates,
    cross_entropy,
    next_items,
    no_adjustments,
    pairwise_loss,
    sampled_candidates,
)


@dataclass(frozen=True)
class Objective:
    """Which items are right and which they are held against; ``configs/model/LLMSeqRec.yaml`` says
    what each field means."""

    loss_type: str
    n_negatives: int
    n_targets: int
    target_decay: float
    dislike_loss_weight: float = 0.0

    def candidates(self, is_known: Tensor, item_seq: Tensor, last: Tensor) -> Candidates:
        """The items that the batch's targets are held against: all that were met, or a sample."""
        if self.loss_type == "CE":
            return all_candidates(is_known)
        met = torch.cat([item_seq.flatten(), last])
        return sampled_candidates(is_known, met, self.n_negatives)


def training_loss(
    network: Network,
    catalogue: Catalogue,
    objective: Objective,
    config: SequenceConfig,
    item_seq: Tensor,
    item_seq_len: Tensor,
    last: Tensor,
    is_trained: Tensor | None = None,
    names: Tensor | None = None,
    disliked: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mean cross-entropy over every position of a batch that is trained, and what dislikes add.

    A position's targets are the ``n_targets`` items after it, the nearer the more important.

    Args:
        item_seq: (B, L) int64 catalogue rows, right-padded with 0, of (B,) int64 lengths.
        last: (B,) int64, the item after each sequence.
        is_trained: (B, L) bool, False on padding; None for every real position. The others are
            read and not asked.
        names: (V, D) int64 names of the items, for a network that spells them.
        disliked: (P,) int64 sequences and (P,) int64 catalogue rows that their users dislike.
    Returns:
        Scalar float32, in nats.
    """
    candidates = objective.candidates(catalogue.is_known, item_seq, last)
    log_weights = candidates.log_weights
    if catalogue.popularity is not None:
        known_before = catalogue.popularity[candidates.items]
        log_weights = known_before if log_weights is None else log_weights + known_before
    items = network.items(candidates.items, catalogue)  # (C, H)
    is_real = item_seq > 0
    states = network.sequences(items[candidates.columns(item_seq[is_real])], item_seq_len)
    newest = states[item_seq_len.cumsum(0) - 1]  # (B, H)
    if is_trained is None:
        is_trained = is_real
    else:
        states = states[is_trained[is_real]]  # (N, H)
    following = next_items(
        item_seq, item_seq_len, last, objective.n_targets, objective.target_decay
    )
    if network.names is not None:
        assert names is not None, "a network that spells names needs them"
        wanted, shares = following.items[is_trained], following.shares[is_trained]
        loss: Tensor = network.names.loss(states, names[wanted], shares)
        return loss
    rows, positions = is_trained.nonzero(as_tuple=True)  # (N,)
    adjustments = no_adjustments(states)
    if network.repeats is not None:
        adjustments = network.repeats(item_seq, rows, positions)
        adjustments = adjustments._replace(items=candidates.columns(adjustments.items))
    # Where there are fewer targets than n_targets the item is padding, no candidate; it counts 0.
    columns = candidates.columns(following.items[is_trained]).clamp(max=len(items) - 1)  # (N, M)
    loss = cross_entropy(
        score_vectors(states, config),
        score_vectors(items, config),
        Targets(columns, following.shares[is_trained]),
        adjustments,
        log_weights,
    )
    if disliked is None or not len(disliked[0]):
        return loss
    owners, unwanted = disliked
    wanted = score_vectors(items[candidates.columns(last)][owners], config)
    unwanted_vectors = score_vectors(network.items(unwanted, catalogue), config)
    dislike_loss = pairwise_loss(score_vectors(newest[owners], config), wanted, unwanted_vectors)
    return loss + objective.dislike_loss_weight * dislike_loss
