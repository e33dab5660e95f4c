"""What of a batch is read otherwise while training, so that a state rests on no single item.

The loss asks at every place of a sequence for what truly came next. An augmentation changes what is
read before a place and leaves what is asked there: what was drawn or left out is never a target, and
biases of items met before go by what was truly met. The newest item's place is read last in every
reading and is asked, so that there is a loss whatever was drawn. Draws are torch's, by its seed.

Sources: crop, mask and reorder from CL4SRec, arXiv:2010.14395; substitute and insert from CoSeRec,
arXiv:2108.06479. Both hold two readings of a user against each other; here one reading is trained on.

Sizes: B sequences, L items in a sequence, K neighbors, N drawn places.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_llm.catalogue import Catalogue


class Reading(NamedTuple):
    """What is read of a batch's sequences, and where in them it is asked for what follows."""

    items: Tensor
    """(B, L) int64 catalogue rows, oldest first, right-padded with 0."""
    lengths: Tensor
    """(B,) int64, at least 1."""
    places: Tensor
    """(B, L) int64, the place in the true sequence whose next items are asked for; any on padding."""
    is_asked: Tensor
    """(B, L) bool, False on padding."""


def read_whole(item_seq: Tensor, item_seq_len: Tensor, is_trained: Tensor | None = None) -> Reading:
    """Everything as it was met.

    Args:
        item_seq: (B, L) int64, right-padded with 0, of (B,) int64 lengths.
        is_trained: (B, L) bool, False on padding; None for every real place.
    """
    places = torch.arange(item_seq.shape[1], device=item_seq.device).expand_as(item_seq)
    return Reading(
        item_seq, item_seq_len, places, item_seq > 0 if is_trained is None else is_trained
    )


def crop(reading: Reading, share: float) -> Reading:
    """Leave out the oldest items, evenly from none to twice the share of a sequence.

    What is left is asked; what is left out is not. CL4SRec cuts the newest off too: that changes no
    state of a causal reader and would only lose targets.
    """
    bound = 2 * share * reading.lengths + 1  # (B,)
    cut = (torch.rand_like(bound) * bound).floor().clamp(max=reading.lengths - 1)
    steps = torch.arange(reading.items.shape[1], device=cut.device)
    return _close_gaps(reading, (reading.items > 0) & (steps >= cut.unsqueeze(1)))


def mask(reading: Reading, share: float) -> Reading:
    """Leave out items, each with the probability ``share``; the newest stays.

    The place before a gap is asked for the item that is left out, as it truly came. CL4SRec puts a
    token in the gap, which here would be one more row of the item matrix.
    """
    is_left = ~_draw(reading, share) & (reading.items > 0)
    is_left[torch.arange(len(is_left)), reading.lengths - 1] = True
    return _close_gaps(reading, is_left)


def reorder(reading: Reading, share: float) -> Reading:
    """Shuffle a span of each sequence, ``share`` of its length.

    Inside the span only the last place is asked: before it a reader could have met its target.
    """
    lengths, device = reading.lengths, _device(reading)
    size = (share * lengths + torch.rand(len(lengths), device=device)).floor()
    start = (torch.rand_like(size) * (lengths - size + 1)).floor().minimum(lengths - size)
    start, size = start.unsqueeze(1), size.unsqueeze(1)
    steps = torch.arange(reading.items.shape[1], device=device).expand_as(reading.items)
    is_inside = (steps >= start) & (steps < start + size)
    keys = torch.where(is_inside, start + size * torch.rand(steps.shape, device=device), steps)
    order = keys.argsort(dim=1, stable=True)
    is_hidden = is_inside & (steps < start + size - 1)
    return reading._replace(
        items=reading.items.gather(1, order), is_asked=reading.is_asked & ~is_hidden
    )


def substitute(reading: Reading, share: float, met: Tensor, catalogue: Catalogue) -> Reading:
    """Read similar items in the place of items, each with the probability ``share``.

    Args:
        met: (B, L + 1) int64, all that the user truly met, targets included.
    """
    drawn = _draw_similar(reading, share, met, catalogue)
    return reading._replace(items=torch.where(drawn > 0, drawn, reading.items))


def insert(reading: Reading, share: float, met: Tensor, catalogue: Catalogue) -> Reading:
    """Read a similar item after an item, after each with the probability ``share``.

    The place of an inserted item is asked for what truly followed, as the one before it is. Where a
    sequence grows beyond L the oldest fall out.

    Args:
        met: (B, L + 1) int64, all that the user truly met, targets included.
    """
    width = reading.items.shape[1]
    drawn = _draw_similar(reading, share, met, catalogue)
    pairs = torch.stack([reading.items, drawn], 2).flatten(1)  # (B, 2L)
    is_left = pairs > 0
    is_left &= is_left.flip(1).cumsum(1).flip(1) <= width
    twice = Reading(
        pairs,
        reading.lengths,
        reading.places.repeat_interleave(2, 1),
        reading.is_asked.repeat_interleave(2, 1),
    )
    grown = _close_gaps(twice, is_left)
    items, places, is_asked = (
        value[:, :width] for value in (grown.items, grown.places, grown.is_asked)
    )
    return Reading(items, grown.lengths, places, is_asked)


_BY_PLACE: dict[str, Callable[[Reading, float], Reading]] = {
    "crop": crop,
    "mask": mask,
    "reorder": reorder,
}
BY_TEXT: dict[str, Callable[[Reading, float, Tensor, Catalogue], Reading]] = {
    "substitute": substitute,
    "insert": insert,
}
"""What draws from the items with like texts."""
AUGMENTATIONS = (*_BY_PLACE, *BY_TEXT)


def augment(
    reading: Reading, names: tuple[str, ...], share: float, met: Tensor, catalogue: Catalogue
) -> Reading:
    """Apply augmentations, one after another.

    Args:
        names: of ``AUGMENTATIONS``.
        share: of a sequence's items, in [0, 1), that each of them touches.
        met: (B, L + 1) int64, all that the user truly met, targets included.
    """
    for name in names:
        if name in BY_TEXT:
            reading = BY_TEXT[name](reading, share, met, catalogue)
        else:
            reading = _BY_PLACE[name](reading, share)
    return reading


def similar_items(items: Tensor, met: Tensor, catalogue: Catalogue) -> Tensor:
    """Draw for each item one of those with like texts, the nearer the likelier.

    What the user met is not drawn: it would be read where it is the answer.

    Args:
        items: (N,) int64 catalogue rows.
        met: (N, L + 1) int64, what the user of each met.
    Returns:
        (N,) int64; 0 where there is nothing to draw.
    """
    neighbors = catalogue.neighbors[items]  # (N, K)
    if not neighbors.numel():
        return torch.zeros_like(items)
    is_met = (neighbors.unsqueeze(2) == met.unsqueeze(1)).any(2)
    has_neighbors = catalogue.id_shares[items, 1] > 0
    weights = catalogue.neighbor_weights[items] * (~is_met & has_neighbors.unsqueeze(1))
    is_none = weights.sum(1) <= 0
    weights[is_none] = 1.0  # torch draws from no empty row
    drawn = neighbors.gather(1, torch.multinomial(weights, 1)).squeeze(1)
    return drawn.masked_fill(is_none, 0)


def _draw_similar(reading: Reading, share: float, met: Tensor, catalogue: Catalogue) -> Tensor:
    """(B, L) int64, 0 where nothing was drawn."""
    rows, steps = _draw(reading, share).nonzero(as_tuple=True)  # (N,)
    drawn = torch.zeros_like(reading.items)
    drawn[rows, steps] = similar_items(reading.items[rows, steps], met[rows], catalogue)
    return drawn


def _draw(reading: Reading, share: float) -> Tensor:
    """(B, L) bool, each item with the probability ``share``; never padding."""
    return (torch.rand(reading.items.shape, device=_device(reading)) < share) & (reading.items > 0)


def _close_gaps(reading: Reading, is_left: Tensor) -> Reading:
    """Keep the places that are left, in their order, and pad on the right."""
    order = is_left.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    lengths = is_left.sum(1)
    steps = torch.arange(is_left.shape[1], device=is_left.device)
    is_real = steps < lengths.unsqueeze(1)
    return Reading(
        reading.items.gather(1, order) * is_real,
        lengths,
        reading.places.gather(1, order),
        reading.is_asked.gather(1, order) & is_real,
    )


def _device(reading: Reading) -> torch.device:
    return reading.items.device
