"""Which items of a history carried a score, for many lists at once.

Gradient times input through the network as it stood for that history (``frozen``): shares of the
score that add up. One pass forwards, and one backwards for each rank. ``recbole_llm.explain`` leaves
items out and scores anew, which takes a pass for each item. What an item that was met before gains by
that (``RepeatBias``) is not in it, nor how far a dislike moved the state.

Source: gradient x input, Shrikumar et al., arXiv:1605.01713.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_llm.scoring.frozen import score_shares
from recbole_llm.scoring.scorer import Scorer

FAINT = 0.1
"""What raised a score by less than this share of the strongest is not named beside it."""
_AT_ONCE = 64
"""Sequences of like lengths whose pass backwards stays near a CPU's cache."""


@dataclass(frozen=True)
class Why:
    """What carried the scores of R ranks of B users."""

    rows: NDArray[np.int64]
    """(B, R, N) rows of history items, the strongest first; 0 where fewer raised the score by a tenth
    of what the strongest did."""
    gains: NDArray[np.float32]
    """(B, R, N) the share of the score that each has; 0 beside row 0."""

    def sentences(self, names: Sequence[str]) -> list[list[str]]:
        """B lists of R sentences, as "because of A and B"; "" where no item raised the score.

        Args:
            names: one an item, in the order of ``Artifact.item_ids``.
        """
        return [
            [_because([names[row - 1] for row in rows if row]) for rows in of_user]
            for of_user in self.rows.tolist()
        ]


@torch.inference_mode()
def why(
    scorer: Scorer,
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    ranked: NDArray[np.int64],
    n_named: int = 2,
) -> Why:
    """Find the history items that carried the scores of ranked items.

    Args:
        scorer: what ranked them.
        rows, lengths: B sequences, as ``Scorer.rank`` takes them; nothing carries an empty one's.
        ranked: (B, R) rows of the ranked items, 0 for none.
        n_named: N, history items wanted of each.
    """
    shape = (*ranked.shape, n_named)
    found, gains = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    if not len(rows) or not n_named:
        return Why(found, gains)
    item_seq, recent = scorer.windows(
        torch.from_numpy(rows).to(scorer.device), torch.from_numpy(lengths).to(scorer.device)
    )
    config, items = scorer.artifact.sequence_config, scorer.item_vectors
    order = recent.argsort(stable=True)
    usable = order[int((recent == 0).sum()) :]
    for batch in torch.split(usable, _AT_ONCE):
        users, width = batch.cpu().numpy(), int(recent[batch].max())
        seq = item_seq[batch, :width]
        wanted = torch.from_numpy(ranked[users]).to(scorer.device)
        gained = score_shares(
            scorer.sequence_encoder, config, items[seq], recent[batch], items[wanted]
        )
        gained = _by_item(gained, seq)
        gained = torch.where(wanted.unsqueeze(2) > 0, gained, -torch.inf)
        best = gained.topk(min(n_named, width), dim=2)
        is_gain = best.values > best.values[..., :1].clamp(min=0) * FAINT
        of_place = seq.unsqueeze(1).expand(-1, wanted.shape[1], -1).gather(2, best.indices)
        found[users, :, : best.values.shape[2]] = (of_place * is_gain).cpu().numpy()
        raised = torch.where(is_gain, best.values, 0.0)
        gains[users, :, : best.values.shape[2]] = raised.cpu().numpy()
    return Why(found, gains)


def _by_item(gained: Tensor, item_seq: Tensor) -> Tensor:
    """Let an item's latest place have what all its places add, and no other place be chosen."""
    is_same = item_seq.unsqueeze(2) == item_seq.unsqueeze(1)  # (B, L, L)
    is_last = ~is_same.triu(1).any(2) & (item_seq > 0)  # (B, L)
    together = gained @ is_same.to(gained.dtype)  # (B, R, L)
    return together.masked_fill(~is_last.unsqueeze(1), -torch.inf)


def _because(names: list[str]) -> str:
    if not names:
        return ""
    *others, last = names
    return f"because of {', '.join(others)} and {last}" if others else f"because of {last}"
