"""Which items of a history carried a score: three views.

**Leaving out** an item and scoring anew is the difference that it made. **Gradient times input** shares
out the score that was, through the network as it stood for this history. **Attention** says where the
network looked, and proves nothing: what is looked at need not move the score.

Sources: captum's FeatureAblation and InputXGradient; attention is not explanation, Jain and Wallace,
arXiv:1902.10186.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from captum.attr import FeatureAblation, InputXGradient
from numpy.typing import NDArray
from torch import Tensor

from recbole_llm.layers import score_vectors
from recbole_llm.linear_reader import LinearReader
from recbole_llm.scoring import Scorer
from recbole_llm.scoring.frozen import freeze


def leave_out(scorer: Scorer, rows: Sequence[int], item: int) -> NDArray[np.float32]:
    """By how much a score falls without an item of the history.

    An item is left out wherever it stands; those before it move up, as if it had never been met. With
    nothing left of the history, an item's own bias is its score.

    Args:
        rows: N rows of the item matrix, oldest first, of any length.
        item: the row of the item that is scored.
    Returns:
        (N,) float32, the same for all places of an item.
    """
    history = np.array(rows, dtype=np.int64)

    def score(is_there: Tensor) -> Tensor:
        kept = is_there.bool().numpy()  # (B, N)
        left = np.concatenate([history[mask] for mask in kept])
        wanted = np.full((len(kept), 1), item)
        return torch.from_numpy(scorer.score(left, kept.sum(1), wanted)[:, 0])

    _, feature = np.unique(history, return_inverse=True)
    falls = FeatureAblation(score).attribute(
        torch.ones(1, len(history)),
        baselines=0.0,
        feature_mask=torch.from_numpy(feature).unsqueeze(0),
        perturbations_per_eval=len(history),
    )
    found: NDArray[np.float32] = falls.squeeze(0).float().numpy()
    return found


def gradient(scorer: Scorer, read: Sequence[int], item: int) -> NDArray[np.float32]:
    """Gradient times input, the share of the score that each place has; see ``scoring.frozen``.

    Args:
        read: the L rows that are read, oldest first.
        item: the row of the item that is scored.
    Returns:
        (L,) float32.
    """
    encoder, config = scorer.sequence_encoder, scorer.artifact.sequence_config
    target = score_vectors(scorer.item_vectors[item], config)
    lengths = torch.tensor([len(read)])

    def score(item_vectors: Tensor) -> Tensor:
        return freeze(encoder, config, item_vectors, lengths).states @ target

    vectors = scorer.item_vectors[torch.tensor(read)].unsqueeze(0).requires_grad_()  # (1, L, H)
    attributed = InputXGradient(score).attribute(vectors)
    found: NDArray[np.float32] = attributed.sum(2).squeeze(0).detach().numpy()
    return found


@torch.no_grad()
def attention(scorer: Scorer, read: Sequence[int]) -> Tensor:
    """(n_layers, n_heads, L, L) float32: how much each place (row) looks at each other (column). Of a
    linear model one square, what each counts."""
    encoder: Any = scorer.sequence_encoder
    if isinstance(encoder, LinearReader):
        return encoder.looks(len(read))
    items = scorer.item_vectors[torch.tensor(read)]
    positions = encoder.position_embedding(torch.arange(len(read)))
    states, maps = encoder.input_norm(items + positions).unsqueeze(0), []
    hidden = torch.full((len(read), len(read)), -torch.inf).triu(1)
    for block in encoder.blocks:
        normed = block.norm1(states)
        looked, weights = block.self_attn(
            normed, normed, normed, attn_mask=hidden, average_attn_weights=False
        )
        maps.append(weights.squeeze(0))
        states = states + looked
        states = states + block.linear2(block.activation(block.linear1(block.norm2(states))))
    return torch.stack(maps)
