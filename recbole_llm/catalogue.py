"""What is known of the items and not trained: which were met, and what describes each.

Sizes: V items including the padding row 0, K neighbors, E text-vector width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_llm.neighbors import id_shares, text_neighbors

_NOTHING_KNOWN = -1e4
"""The bias of an item without events and without text: far below all scores, and finite."""


class Catalogue(NamedTuple):
    """One row an item; row 0 is padding, which nobody met and nothing describes."""

    is_known: Tensor
    """(V,) bool, met in training."""
    item_bias: Tensor
    """(V,) float, added to the items' scores."""
    id_shares: Tensor
    """(V, 2) float, of an item's own ID and of its neighbors' mean in its ID vector."""
    neighbors: Tensor
    """(V, K) int64 items with like texts; K is 0 where none are used."""
    neighbor_weights: Tensor
    """(V, K) float, adding up to 1."""
    text_vectors: Tensor | None
    """(V, E) float, whitened, zeros for what an item lacks; pictures and sounds are further columns.
    None without text."""
    popularity: Tensor | None = None
    """(V,) float, in ``item_bias`` already and in the loss too; None where popularity is learnt."""
    missing: Tensor | None = None
    """(V, M) float, 1 where an item lacks a modality; None with texts alone."""


def build_catalogue(
    counts: Tensor,
    text_vectors: Tensor | None,
    n_neighbors: int,
    id_prior: float,
    new_item_bias: float,
    popularity: Tensor | None = None,
    missing: Tensor | None = None,
    text_events: float = 0.0,
) -> Catalogue:
    """Tell known items from new ones and find each item's neighbors.

    Args:
        counts: (V,) int64 training events of each item; 0 for padding.
        text_vectors: (V, E) float, zeros where an item has no text; on the device of ``counts``.
        n_neighbors: K, 0 for a model without ID vectors.
        id_prior: events that the neighbors' mean weighs.
        new_item_bias: of an item without events that a text describes.
        popularity: (V,) float, in nats, what is known of it before training.
        missing: (V, M) float, 1 where an item lacks a modality, and 0 for padding. Neighbors do not
            read it: two items are not alike for both having no picture.
        text_events: events that a text counts as beside the item's own, where ID vectors do not start
            at random but from the texts, as in a transfer; all items with text may then be neighbors.
    """
    is_known = counts > 0
    has_text = _has_text(is_known, text_vectors)
    neighbors = torch.zeros(len(counts), 0, dtype=torch.int64, device=counts.device)
    weights = torch.zeros(len(counts), 0, device=counts.device)
    if text_vectors is not None and n_neighbors:
        may_lend = has_text if text_events else is_known & has_text
        neighbors, weights = text_neighbors(text_vectors, may_lend, n_neighbors)
    has_neighbors = has_text & bool(neighbors.shape[1])
    bias = item_bias(is_known, text_vectors, new_item_bias)
    return Catalogue(
        is_known=is_known,
        item_bias=bias if popularity is None else bias + popularity,
        id_shares=id_shares(counts + text_events * has_text, has_neighbors, id_prior),
        neighbors=neighbors,
        neighbor_weights=weights,
        text_vectors=text_vectors,
        popularity=popularity,
        missing=missing,
    )


def item_bias(is_known: Tensor, text_vectors: Tensor | None, new_item_bias: float) -> Tensor:
    """What is added to each item's scores; what nothing is known of comes last.

    Args:
        is_known: (V,) bool, met in training.
        text_vectors: (V, E) float, zeros where an item has no text; None without text.
        new_item_bias: of an item without events that a text describes.
    Returns:
        (V,) float.
    """
    has_text = _has_text(is_known, text_vectors)
    return torch.where(is_known, 0.0, torch.where(has_text, new_item_bias, _NOTHING_KNOWN))


def _has_text(is_known: Tensor, text_vectors: Tensor | None) -> Tensor:
    return torch.zeros_like(is_known) if text_vectors is None else text_vectors.any(1)
