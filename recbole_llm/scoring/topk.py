"""The K best of many items for each state, exactly, at little more than the cost of the product.

A selection over a whole row of scores takes longer than computing it. So the product is made block
by block, in the cache, and of each block only the maxima of small groups are kept. The K best items
stand in the K groups with the highest maxima; these few groups alone are looked into.
"""

import torch
from torch import Tensor

from recbole_llm.losses import Adjustments

_GROUP = 16
"""Items with one maximum, and groups with one maximum of their own."""
_SPAN = _GROUP * _GROUP
_BLOCK = {"cpu": 2048, "cuda": 131_072}
"""Items multiplied together, a multiple of ``_SPAN``: with 256 states 2 MiB of scores."""
_KEPT = 32_768
"""Catalogues up to this size are one block, whose scores are kept and not computed again."""
_AT_ONCE = 32
"""States whose groups are looked into together: 2.5 MiB of vectors at H = 64 and K = 20."""


class TopItems:
    """Ranks a catalogue, or some of its items, for batch after batch of states.

    Args:
        item_matrix: (V, H) float32 item vectors; row 0 is padding and never ranked.
        item_bias: (V,) float32, added to the items' scores.
        rows: (C,) int64 rows that may be ranked; None for all but padding.
    """

    def __init__(self, item_matrix: Tensor, item_bias: Tensor, rows: Tensor | None = None) -> None:
        if rows is None:
            rows = torch.arange(1, len(item_matrix), device=item_matrix.device)
        self._places = torch.full((len(item_matrix),), -1, device=item_matrix.device)
        self._places[rows] = torch.arange(len(rows), device=rows.device)
        self.n_items = len(rows)
        # Filled up to whole groups with items that score minus infinity.
        size = -(-len(rows) // _SPAN) * _SPAN
        self._rows = rows.new_zeros(size)
        self._rows[: len(rows)] = rows
        self._vectors = item_matrix.new_zeros(size, item_matrix.shape[1] + 1)  # (C, H + 1)
        self._vectors[:, -1] = -torch.inf
        self._vectors[: len(rows), :-1] = item_matrix[rows]
        self._bias = item_bias[rows]
        self._vectors[: len(rows), -1] = self._bias
        self._banned: Tensor | None = None
        self._block = size if size <= _KEPT else _BLOCK.get(item_matrix.device.type, _BLOCK["cpu"])
        self._memory: dict[str, Tensor] = {}

    def __call__(
        self, states: Tensor, adjustments: Adjustments, k: int, banned: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rank.

        Args:
            states: (B, H) float32; a few hundred at once.
            adjustments: added to single scores, by rows of the catalogue; minus infinity takes an
                item out, and alone may stand twice for one score.
            k: items wanted.
            banned: (N,) int64 rows that none of the states may have. The same tensor again costs
                nothing.
        Returns:
            (B, K) scores, not rising, and (B, K) int64 rows of the catalogue. Where fewer are left
            than wanted, the scores of the rest are minus infinity. Equal scores come in no promised
            order.
        """
        self._ban(banned)
        states = torch.cat([states, states.new_ones(len(states), 1)], dim=1)  # (B, H + 1)
        added = self._by_place(adjustments)
        users = torch.arange(len(states), device=states.device).unsqueeze(1)
        scores, small, large = self._maxima(states, added)
        best = large.T.contiguous().topk(min(k, len(large)), dim=1, sorted=False).indices
        inside = _members(best)  # (B, K * G) small groups
        maxima = small[inside, users]
        best = inside.gather(1, maxima.topk(min(k, maxima.shape[1]), dim=1, sorted=False).indices)
        places = _members(best)  # (B, K * G) candidates
        if self._block == len(self._vectors):
            found = scores[places, users]
        else:
            found = self._scores_of(states, best)
            _add_within(found, best, added)
        found, order = found.topk(min(k, found.shape[1]), dim=1)
        return found, self._rows[places.gather(1, order)]

    def _ban(self, banned: Tensor | None) -> None:
        """Let these rows alone score minus infinity, through the column that holds the bias."""
        if banned is self._banned:
            return
        bias = self._vectors[: self.n_items, -1]
        bias.copy_(self._bias)
        if banned is not None:
            places = self._places[banned]
            bias[places[places >= 0]] = -torch.inf
        self._banned = banned

    def _by_place(self, adjustments: Adjustments) -> Adjustments:
        """Adjustments of candidates, in the candidates' order."""
        where = self._places[adjustments.items]
        kept = (where >= 0).nonzero().squeeze(1)
        kept = kept[where[kept].argsort()]
        return Adjustments(adjustments.rows[kept], where[kept], adjustments.values[kept])

    def _maxima(self, states: Tensor, added: Adjustments) -> tuple[Tensor, Tensor, Tensor]:
        """The last block's scores, (C / G, B) maxima of groups, (C / G², B) of groups of those."""
        width, block = len(states), self._block
        scores = self._space("scores", block, states)
        small = self._space("small", len(self._vectors) // _GROUP, states)
        large = self._space("large", len(self._vectors) // _SPAN, states)
        columns = states.T.contiguous()  # a group's maximum is taken across whole rows
        starts = torch.arange(0, len(self._vectors) + block, block, device=states.device)
        bounds = torch.searchsorted(added.items, starts).tolist()
        parts = zip(
            _pieces(self._vectors, block),
            _pieces(small, block // _GROUP),
            _pieces(large, block // _SPAN),
            strict=True,
        )
        for number, (vectors, maxima, larger) in enumerate(parts):
            here = scores[: len(vectors)]
            torch.mm(vectors, columns, out=here)
            first, last = bounds[number], bounds[number + 1]
            if first < last:
                at = (added.items[first:last] - number * block, added.rows[first:last])
                here[at] = here[at] + added.values[first:last]
            torch.amax(here.view(-1, _GROUP, width), 1, out=maxima)
            torch.amax(maxima.view(-1, _GROUP, width), 1, out=larger)
        return scores, small, large

    def _space(self, name: str, rows: int, states: Tensor) -> Tensor:
        """(rows, B) memory that is used again: fresh pages cost as much as filling them."""
        size = rows * len(states)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = states.new_empty(size)
        return self._memory[name][:size].view(rows, len(states))

    def _scores_of(self, states: Tensor, groups: Tensor) -> Tensor:
        """(B, N * G) scores of (B, N) groups."""
        whole = self._vectors.view(-1, _GROUP * self._vectors.shape[1])  # a group is one row
        parts = []
        for some, few in zip(_pieces(states, _AT_ONCE), _pieces(groups, _AT_ONCE), strict=True):
            vectors = whole.index_select(0, few.flatten()).view(len(some), -1, states.shape[1])
            parts.append(torch.bmm(vectors, some.unsqueeze(2)).squeeze(2))
        return torch.cat(parts)


def _pieces(tensor: Tensor, size: int) -> list[Tensor]:
    return [tensor[start : start + size] for start in range(0, len(tensor), size)]


def _members(groups: Tensor) -> Tensor:
    """(B, N) groups to the (B, N * G) things that are in them."""
    inside = torch.arange(_GROUP, device=groups.device)
    return (groups.unsqueeze(2) * _GROUP + inside).flatten(1)


def _add_within(scores: Tensor, groups: Tensor, added: Adjustments) -> None:
    """Add in place what is added to items of (B, N) groups; ``scores`` are (B, N * G)."""
    is_there = groups[added.rows] == added.items.unsqueeze(1) // _GROUP  # (P, N)
    which, at = is_there.nonzero(as_tuple=True)
    where = (added.rows[which], at * _GROUP + added.items[which] % _GROUP)
    scores[where] = scores[where] + added.values[which]
