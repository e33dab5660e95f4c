"""Sequences end to end in few rows, so that little of a batch is padding.

Most histories are short and one in a batch is long; padding all to that one would be most of the
work. Rows are as wide as the longest sequence; a mask keeps each from seeing its neighbors in a row.

Source: packing, Krell et al., arXiv:2107.02027.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Where the N items of B sequences stand in R rows of W places."""

    places: Tensor
    """(N,) int64 row · W + column of each item; sequence after sequence, oldest item first."""
    positions: Tensor
    """(N,) int64 place of each item in its own sequence, from 0."""
    hidden: Tensor
    """(R, W, W) bool: [r, t, s] says that place t may not read place s."""


def pack(lengths: Tensor) -> Packing:
    """Lay sequences into rows: the longest one left opens a row, the shortest ones fill it.

    Args:
        lengths: (B,) int64, each at least 1.
    """
    device = lengths.device
    sizes = lengths.tolist()
    width = max(sizes)
    order = sorted(range(len(sizes)), key=lambda sequence: -sizes[sequence])
    starts = [0] * len(sizes)
    longest, shortest, n_rows = 0, len(order) - 1, 0
    while longest <= shortest:
        place = n_rows * width
        starts[order[longest]] = place
        place += sizes[order[longest]]
        longest += 1
        n_rows += 1
        while longest <= shortest and place + sizes[order[shortest]] <= n_rows * width:
            starts[order[shortest]] = place
            place += sizes[order[shortest]]
            shortest -= 1
    owners = torch.repeat_interleave(lengths)  # (N,) sequences
    firsts = lengths.cumsum(0) - lengths  # (B,)
    positions = torch.arange(len(owners), device=device) - firsts[owners]
    places = torch.tensor(starts, device=device)[owners] + positions
    segments = torch.full((n_rows * width,), -1, device=device)
    segments[places] = owners
    segments = segments.view(n_rows, width)
    is_other = segments.unsqueeze(2) != segments.unsqueeze(1)
    is_later = torch.ones(width, width, dtype=torch.bool, device=device).triu(1)
    return Packing(places, positions, is_other | is_later)
