"""The K best of many items for each state, exactly, at little more than the cost of the product.

A selection over a whole row of scores takes longer than computing it. So the product is made block
by block, in the cache, and of each block only the maxima of small groups are kept. The K best items
stand in the K groups with the highest maxima; these few groups alone are looked into.

Where a CPU multiplies bfloat16 much faster than float32, large catalogues are looked over in it
first. A few groups more than K are then looked into in float32, and the rounding of the first look is
bounded: where the K-th score lies above all that the other groups can hold, the list is the exact
one. Where it does not, the state is ranked again without the shortcut.
"""

import torch
from torch import Tensor

from recbole_llm.losses import Adjustments

_GROUP = 16
"""Items with one maximum, and groups with one maximum of their own."""
_SPAN = _GROUP * _GROUP
_SCORES = {"cpu": 2048 * 256, "cuda": 131_072 * 256}
"""Made together: 2 MiB on a CPU. With few states these are many items, which suits the product."""
_KEPT = 32_768
"""Catalogues up to this size are one block, whose scores are kept and not computed again."""
_ROUGH_FROM = {"amx_bf16": _KEPT, "avx512_bf16": 131_072}
"""Catalogues larger than this are looked over in bfloat16 first, by what the CPU multiplies it with: up
to there the spare groups cost more than the product saves."""
_SPARE = 44
"""Groups beyond K that are looked into after a look in bfloat16."""
_ROUNDING = 0.0042
"""By how much a product in bfloat16 is off, of the two vectors' lengths at most: both are rounded by
2^-9 of their parts; a little is left for the sums in float32."""
_OF_SCORE = 1 / 256
"""By how much the score of a first look is off beside that: it is rounded by 2^-9 of itself."""
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
        self._scores = _SCORES.get(item_matrix.device.type, _SCORES["cpu"])
        self._rough: Tensor | None = None
        unit = bfloat16_unit() if item_matrix.device.type == "cpu" else None
        if unit is not None and size > _ROUGH_FROM[unit]:
            self._rough = self._vectors.bfloat16()
            self._rough[: len(rows), -1] = _not_below(self._bias)
            self._longest = item_matrix[rows].norm(dim=1).max()
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}

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
        # For one state alone a CPU is as fast in float32.
        is_exact = self._rough is None or len(states) == 1
        if is_exact or not bool((added.values == -torch.inf).all()):
            return self._ranked(*self._look(states, added, k), k)
        scores, places, is_sure = self._look_roughly(states, added, k)
        best, rows = self._ranked(scores, places, k)
        if not bool(is_sure.all()):
            again = (~is_sure).nonzero().squeeze(1)
            number = torch.full((len(states),), -1, device=states.device)
            number[again] = torch.arange(len(again), device=states.device)
            of_again = number[added.rows] >= 0
            some = Adjustments(
                number[added.rows[of_again]], added.items[of_again], added.values[of_again]
            )
            best[again], rows[again] = self._ranked(*self._look(states[again], some, k), k)
        return best, rows

    def _ranked(self, scores: Tensor, places: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(B, K) scores and rows of (B, N) candidates."""
        best, order = scores.topk(min(k, scores.shape[1]), dim=1)
        return best, self._rows[places.gather(1, order)]

    def _look(self, states: Tensor, added: Adjustments, k: int) -> tuple[Tensor, Tensor]:
        """(B, N) scores and places of candidates, the K best among them."""
        scores, small, large = self._maxima(self._vectors, states, added)
        groups, _ = _best_groups(small, large, k)
        places = _members(groups)
        if self._block(len(states)) == len(self._vectors):
            users = torch.arange(len(states), device=states.device).unsqueeze(1)
            return scores[places, users], places
        found = self._scores_of(states, groups)
        _add_within(found, groups, added)
        return found, places

    def _look_roughly(
        self, states: Tensor, added: Adjustments, k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and (B,) whether the K best are surely among them."""
        assert self._rough is not None
        _, small, large = self._maxima(self._rough, states.bfloat16(), added)
        groups, outside = _best_groups(small, large, k + _SPARE)
        found = self._scores_of(states, groups)
        _add_within(found, groups, added)
        # Maxima of negative scores are not in order, see _maxima; so the K-th must be above those.
        highest = outside.clamp(min=0) * (1 + _OF_SCORE)
        highest += _ROUNDING * self._longest * states[:, :-1].norm(dim=1)
        kth = found.topk(min(k, found.shape[1]), dim=1).values[:, -1]
        return found, _members(groups), kth >= highest

    def _ban(self, banned: Tensor | None) -> None:
        """Let these rows alone score minus infinity, through the column that holds the bias."""
        if banned is self._banned:
            return
        bias = self._bias.clone()
        if banned is not None:
            places = self._places[banned]
            bias[places[places >= 0]] = -torch.inf
        self._vectors[: self.n_items, -1] = bias
        if self._rough is not None:
            self._rough[: self.n_items, -1] = _not_below(bias)
        self._banned = banned

    def _by_place(self, adjustments: Adjustments) -> Adjustments:
        """Adjustments of candidates, in the candidates' order."""
        where = self._places[adjustments.items]
        kept = (where >= 0).nonzero().squeeze(1)
        kept = kept[where[kept].argsort()]
        return Adjustments(adjustments.rows[kept], where[kept], adjustments.values[kept])

    def _maxima(
        self, vectors: Tensor, states: Tensor, added: Adjustments
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The last block's scores, (C / G, B) maxima of groups, (C / G², B) of groups of those.

        In bfloat16 the maxima are taken of the bits as integers, three times as fast: the order of
        positive numbers is the same, and they stand above all negative ones.
        """
        width, block = len(states), self._block(len(states))
        is_rough = vectors.dtype == torch.bfloat16
        scores = self._space("scores", block, states)
        small = self._space("small", len(vectors) // _GROUP, states)
        large = self._space("large", len(vectors) // _SPAN, states)
        columns = states.T.contiguous()  # a group's maximum is taken across whole rows
        starts = torch.arange(0, len(vectors) + block, block, device=states.device)
        bounds = torch.searchsorted(added.items, starts).tolist()
        parts = zip(
            _pieces(vectors, block),
            _pieces(_bits(small), block // _GROUP),
            _pieces(_bits(large), block // _SPAN),
            strict=True,
        )
        for number, (some, maxima, larger) in enumerate(parts):
            here = scores[: len(some)]
            torch.mm(some, columns, out=here)
            first, last = bounds[number], bounds[number + 1]
            if first < last:
                at = (added.items[first:last] - number * block, added.rows[first:last])
                values = added.values[first:last].to(here.dtype)
                here[at] = values if is_rough else here[at] + values
            torch.amax(_bits(here).view(-1, _GROUP, width), 1, out=maxima)
            torch.amax(maxima.view(-1, _GROUP, width), 1, out=larger)
        return scores, small, large

    def _block(self, n_states: int) -> int:
        """Items multiplied together, a multiple of ``_SPAN``."""
        size = len(self._vectors)
        if size <= _KEPT:
            return size
        return min(size, max(self._scores // n_states // _SPAN, 1) * _SPAN)

    def _space(self, name: str, rows: int, states: Tensor) -> Tensor:
        """(rows, B) memory that is used again: fresh pages cost as much as filling them."""
        size = rows * len(states)
        key = (name, states.dtype)
        if key not in self._memory or self._memory[key].numel() < size:
            self._memory[key] = states.new_empty(size)
        return self._memory[key][:size].view(rows, len(states))

    def _scores_of(self, states: Tensor, groups: Tensor) -> Tensor:
        """(B, N * G) scores of (B, N) groups."""
        whole = self._vectors.view(-1, _GROUP * self._vectors.shape[1])  # a group is one row
        parts = []
        for some, few in zip(_pieces(states, _AT_ONCE), _pieces(groups, _AT_ONCE), strict=True):
            vectors = whole.index_select(0, few.flatten()).view(len(some), -1, states.shape[1])
            parts.append(torch.bmm(vectors, some.unsqueeze(2)).squeeze(2))
        return torch.cat(parts)


def bfloat16_unit() -> str | None:
    """What this CPU multiplies bfloat16 faster with than float32, as torch names it.

    Returns:
        ``amx_bf16`` (tiles), ``avx512_bf16`` (vectors, about twice as fast as float32), or None.
    """
    read = getattr(torch.cpu, "get_capabilities", None)  # new torches have it
    found = read() if read is not None else {}
    return next((unit for unit in _ROUGH_FROM if found.get(unit)), None)


def _not_below(bias: Tensor) -> Tensor:
    """Rounded up to bfloat16, so that no item looks worse for its bias than it is."""
    rounded = bias.bfloat16()
    upwards = rounded.new_full((), torch.inf)
    return torch.where(rounded < bias, rounded.nextafter(upwards), rounded)


def _best_groups(small: Tensor, large: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(B, N) small groups with the highest maxima, and (B,) the highest maximum of the others."""
    users = torch.arange(small.shape[1], device=small.device).unsqueeze(1)
    groups, others = _highest(large.T.float(), n)
    inside = _members(groups)  # (B, N * G) small groups
    best, rest = _highest(small[inside, users].float(), n)
    return inside.gather(1, best), torch.maximum(others, rest)


def _highest(values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(B, N) places of the highest of (B, M) values, and (B,) the next one, minus infinity if none."""
    if values.shape[1] <= n:
        places = torch.arange(values.shape[1], device=values.device).expand(len(values), -1)
        return places, values.new_full((len(values),), -torch.inf)
    best = values.contiguous().topk(n + 1, dim=1)
    return best.indices[:, :n], best.values[:, n]


def _bits(scores: Tensor) -> Tensor:
    """bfloat16 as integers; float32 as it is."""
    return scores.view(torch.int16) if scores.dtype == torch.bfloat16 else scores


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
