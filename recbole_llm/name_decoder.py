"""A decoder that spells the names of items, code by code.

A user's state says the first code, then with it the second one, and so on; a beam search keeps to
names that some item bears. ``semantic_ids`` makes the names.

Source: TIGER, Rajput et al., arXiv:2305.05065.

Sizes: V items including padding, D codes a name, C values of a code, N states, M targets of each, H
hidden size, K items wanted.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class NameTree(NamedTuple):
    """Which names there are: the children of each beginning of a name."""

    keys: list[Tensor]
    """By level, ascending int64 ``parent · C + code`` of each beginning of that many codes; its place
    in the list is its number as a parent."""
    items: Tensor
    """(V - 1,) int64 items by the place of their whole name."""
    n_codes: int


def name_tree(names: Tensor, items: Tensor) -> NameTree:
    """Build the tree of (V - 1, D) int64 names of (V - 1,) int64 items."""
    n_codes = int(names.max()) + 1
    parents = torch.zeros(len(names), dtype=torch.int64, device=names.device)
    keys = []
    for level in range(names.shape[1]):
        found, parents = torch.unique(parents * n_codes + names[:, level], return_inverse=True)
        keys.append(found)
    return NameTree(keys, items[parents.argsort()], n_codes)


class NameDecoder(nn.Module):
    """Spells the name of the next item from a user's state.

    Args:
        n_levels: D.
        n_codes: C.
        hidden_size: H.
    """

    def __init__(self, n_levels: int, n_codes: int, hidden_size: int, std: float) -> None:
        super().__init__()
        self.codes = nn.ModuleList(nn.Embedding(n_codes, hidden_size) for _ in range(n_levels))
        self.mix = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden_size),
                nn.Linear(hidden_size, 4 * hidden_size),
                nn.GELU(),
                nn.Linear(4 * hidden_size, hidden_size),
            )
            for _ in range(n_levels)
        )
        self.heads = nn.ModuleList(nn.Linear(hidden_size, n_codes) for _ in range(n_levels))
        for embedding in self.codes:
            nn.init.normal_(embedding.get_parameter("weight"), std=std)

    def log_probs(self, states: Tensor, level: int) -> Tensor:
        """(..., C) of the code at a level, for (..., H) states with the codes before it."""
        mixed = states + self.mix[level](states)
        return functional.log_softmax(self.heads[level](mixed).float(), -1)

    def loss(self, states: Tensor, names: Tensor, shares: Tensor) -> Tensor:
        """Mean cross-entropy of the targets' names.

        Args:
            states: (N, H) float.
            names: (N, M, D) int64 names of the targets.
            shares: (N, M) float, what each target counts; adds up to 1 over M.
        Returns:
            Scalar float32, in nats.
        """
        read = states.unsqueeze(1).expand(*names.shape[:2], -1)  # (N, M, H)
        total = torch.zeros_like(shares)
        for level, codes in enumerate(names.unbind(-1)):
            total = total - self.log_probs(read, level).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
            read = read + self.codes[level](codes)
        return (total * shares).sum() / len(states)

    @torch.no_grad()
    def beam_search(self, states: Tensor, tree: NameTree, k: int) -> tuple[Tensor, Tensor]:
        """The items of the K most likely names that the beam finds.

        Args:
            states: (N, H) float.
            k: width of the beam.
        Returns:
            (N, K) int64 items, the likeliest first, and (N, K) float log-probabilities; -inf where
            there are fewer than K.
        """
        n, size = states.shape
        places = states.new_zeros(n, 1, dtype=torch.int64)
        scores = states.new_zeros(n, 1, dtype=torch.float32)
        read = states.unsqueeze(1)  # (N, beam, H)
        codes = torch.arange(tree.n_codes, device=states.device)
        for level, keys in enumerate(tree.keys):
            wanted = places.unsqueeze(-1) * tree.n_codes + codes  # (N, beam, C)
            found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            log_probs = self.log_probs(read, level)[..., : tree.n_codes]
            grown = scores.unsqueeze(-1) + log_probs
            grown = grown.masked_fill(keys[found] != wanted, -torch.inf).flatten(1)
            scores, kept = grown.topk(min(k, grown.shape[1]), dim=1)
            places = found.flatten(1).gather(1, kept)
            code, parent = kept % tree.n_codes, kept // tree.n_codes
            read = read.gather(1, parent.unsqueeze(-1).expand(-1, -1, size))
            read = read + self.codes[level](code)
        return tree.items[places], scores
