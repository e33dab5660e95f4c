"""The network, as plain modules: what training optimises and what scoring rebuilds.

Sizes: B sequences, L items in a sequence, H hidden size, E text-vector width, V items including
the padding row 0. Sequences run oldest to newest and are right-padded with 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_llm.adaptors import build_adaptor
from recbole_llm.catalogue import Catalogue
from recbole_llm.linear_reader import LinearReader
from recbole_llm.losses import Adjustments
from recbole_llm.name_decoder import NameDecoder
from recbole_llm.packing import pack
from recbole_llm.weighted_rows import weighted_rows

_AT_ONCE = {"cpu": 128, "cuda": 4096}
"""Sequences encoded together when their last states alone are wanted: what stays near a CPU's cache,
and what fills a GPU."""


READERS = ("attention", "linear")
"""What may read a history."""


@dataclass(frozen=True)
class SequenceConfig:
    """The shape of the sequence encoder and of its scores; an artifact carries it as JSON."""

    hidden_size: int
    n_layers: int
    n_heads: int
    inner_size: int
    max_seq_length: int
    hidden_dropout_prob: float
    attn_dropout_prob: float
    hidden_act: str
    layer_norm_eps: float
    initializer_range: float
    score: str
    """``dot`` or ``cosine``."""
    temperature: float
    """Divides a cosine; unused with ``dot``."""
    repeat_lags: int
    """Numbers of the repeat bias; 0 without one."""
    reader: str = "attention"
    """What reads a history: ``attention``, or ``linear``."""


class ItemEncoder(nn.Module):
    """One vector an item: a trainable ID vector, its own and its neighbors', plus an adapted text
    vector.

    An item without text is described by its ID alone; one that nobody has met yet by its text and
    its neighbors' IDs. In training some items are described as if nobody had met them, so that this
    description learns to score on the scale of the full one.

    Pictures and sounds are further columns of the text vectors. An item that lacks one of several
    modalities gets that modality's learned default vector in its place.

    Source: dropping what a new item lacks as in DropoutNet, Volkovs et al., NeurIPS 2017.

    Args:
        n_items: V, including padding.
        hidden_size: H.
        widths: columns of each modality, E together; none for a model without text.
        use_id: keep a trainable vector an item.
        adaptor: a name of ``ADAPTORS``.
        id_dropout_prob: share of the items whose own ID is left out, drawn anew for each batch.
        initializer_range: standard deviation of the initial ID vectors.
        fusion: a name of ``FUSIONS``.
    """

    def __init__(
        self,
        n_items: int,
        hidden_size: int,
        widths: Sequence[int],
        use_id: bool,
        adaptor: str,
        id_dropout_prob: float,
        initializer_range: float,
        fusion: str = "concat",
    ) -> None:
        super().__init__()
        self.id_dropout_prob = id_dropout_prob
        self.id_embedding: nn.Embedding | None = None
        self.adaptor: nn.Module | None = None
        self.defaults: nn.Linear | None = None
        if use_id:
            self.id_embedding = nn.Embedding(n_items, hidden_size)
            nn.init.normal_(self.id_embedding.weight, std=initializer_range)
        if widths:
            self.adaptor = build_adaptor(widths, hidden_size, initializer_range, adaptor, fusion)
        if len(widths) > 1:
            self.defaults = nn.Linear(len(widths), hidden_size, bias=False)
            nn.init.zeros_(self.defaults.weight)  # as the average text, picture and sound

    def forward(self, items: Tensor, catalogue: Catalogue) -> Tensor:
        """Build the vectors of some items.

        Args:
            items: (C,) int64 rows of the catalogue.
        Returns:
            (C, H) float; padding is zero.
        """
        vectors: Tensor | None = None
        if self.id_embedding is not None:
            own, borrowed = catalogue.id_shares[items].unsqueeze(2).unbind(1)  # (C, 1) each
            if self.training and self.id_dropout_prob:
                # An item without neighbors keeps its ID: it would have nothing in its place.
                dropped = (torch.rand_like(own) < self.id_dropout_prob) & (borrowed > 0)
                own = own.masked_fill(dropped, 0.0)
                borrowed = borrowed.masked_fill(dropped, 1.0)
            vectors = own * self.id_embedding(items)  # (C, H)
            if catalogue.neighbors.shape[1]:
                means = weighted_rows(
                    self.id_embedding.weight,
                    catalogue.neighbors[items],
                    catalogue.neighbor_weights[items],
                )
                vectors = vectors + borrowed * means
        if self.adaptor is not None:
            assert catalogue.text_vectors is not None, "a model with an adaptor needs text vectors"
            texts = catalogue.text_vectors
            if 2 * len(items) > len(texts):  # most: their texts are wider than what comes of them
                adapted = functional.embedding(items, self.adaptor(texts))  # (C, H)
            else:
                adapted = self.adaptor(texts[items])
            if self.defaults is not None:
                assert catalogue.missing is not None, "several modalities, and who lacks which"
                adapted = adapted + self.defaults(catalogue.missing[items])
            vectors = adapted if vectors is None else vectors + adapted
        assert vectors is not None, "a model needs an ID vector, a text vector, or both"
        return vectors


class RepeatBias(nn.Module):
    """What is added to an item's score because the user met it before.

    Shops sell refills, nobody rates a film twice: a product of vectors ranks the items of a history
    first, wherever repeats are rare. One learned number for the last item, one for the item before,
    and so on; the last number serves all older ones.

    Source: the repeat and explore modes of RepeatNet, arXiv:1812.02646, as a bias.
    """

    STEP = 10.0
    """A bias has to cross several units while vectors move by hundredths; this is its lead."""

    def __init__(self, n_lags: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_lags))

    def forward(self, item_seq: Tensor, rows: Tensor, positions: Tensor) -> Adjustments:
        """The adjustments of states' scores.

        Args:
            item_seq: (B, L) int64, right-padded with 0.
            rows, positions: (N,) int64; state n is sequence ``rows[n]`` after ``positions[n]``.
        Returns:
            Adjustments whose rows are states and whose items are catalogue rows. An item that was
            met several times counts at its latest place.
        """
        steps = torch.arange(item_seq.shape[1], device=item_seq.device)
        is_same = item_seq.unsqueeze(2) == item_seq.unsqueeze(1)  # (B, L, L)
        is_later = steps > steps.unsqueeze(1)  # (L, L)
        # Where the same item comes next; L where it does not.
        next_place = torch.where(is_same & is_later, steps, len(steps)).amin(2)  # (B, L)
        is_latest = (steps <= positions.unsqueeze(1)) & (positions.unsqueeze(1) < next_place[rows])
        states, places = is_latest.nonzero(as_tuple=True)  # (P,)
        lags = (positions[states] - places).clamp(max=len(self.weight) - 1)
        return Adjustments(states, item_seq[rows[states], places], self.STEP * self.weight[lags])


class SequenceEncoder(nn.Module):
    """Causal self-attention over the items a user met.

    The state at position t depends on items 0..t and on nothing later, so one pass yields a
    training signal at every position.

    Source: SASRec, arXiv:1808.09781; pre-norm blocks as in arXiv:2002.04745.
    """

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.n_heads = config.n_heads
        self.position_embedding = nn.Embedding(config.max_seq_length, size)
        self.input_norm = nn.LayerNorm(size, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            block = nn.TransformerEncoderLayer(
                size,
                config.n_heads,
                config.inner_size,
                config.hidden_dropout_prob,
                activation=config.hidden_act,
                layer_norm_eps=eps,
                batch_first=True,
                norm_first=True,
            )
            block.self_attn.dropout = config.attn_dropout_prob
            block.dropout.p = 0.0  # SASRec drops after the feed-forward, not inside it
            self.blocks.append(block)
        self.output_norm = nn.LayerNorm(size, eps=eps)
        self._initialise(config.initializer_range)

    def _initialise(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.MultiheadAttention):
                nn.init.normal_(module.in_proj_weight, std=std)

    def forward(self, item_vectors: Tensor, lengths: Tensor) -> Tensor:
        """Read sequences.

        Args:
            item_vectors: (N, H) float, the items of B sequences one after another, oldest first.
            lengths: (B,) int64, at least 1 and at most ``max_seq_length``; they add up to N.
        Returns:
            (N, H) float; the user's state after each item.
        """
        packing = pack(lengths)
        states = item_vectors + self.position_embedding(packing.positions)
        states = self.dropout(self.input_norm(states))
        n_rows, width, _ = packing.hidden.shape
        mask = states.new_zeros(packing.hidden.shape).masked_fill_(packing.hidden, -torch.inf)
        mask = mask.repeat_interleave(self.n_heads, dim=0)  # (R · heads, W, W)
        rows = states.new_zeros(n_rows * width, states.shape[1])
        rows = rows.index_copy(0, packing.places, states).view(n_rows, width, -1)
        for block in self.blocks:
            rows = block(rows, src_mask=mask)
        return cast(Tensor, self.output_norm(rows.flatten(0, 1)[packing.places]))

    def last_states(self, item_vectors: Tensor, lengths: Tensor) -> Tensor:
        """The states after the last items alone, as ``forward`` gives them without dropout.

        The last block has them alone to work out, which saves most of it; and where each sequence
        has a line of its own, the causal mask hides the padding too.

        Args:
            item_vectors: (B, L, H) float, right-padded with anything finite.
            lengths: (B,) int64, at least 1 and at most L.
        Returns:
            (B, H) float.
        """
        inputs = self.enter(item_vectors + self.order(item_vectors.shape[1]))
        return self.read_inputs(inputs, lengths)

    def order(self, length: int) -> Tensor:
        """(L, H) what the places add to the items."""
        places = torch.arange(length, device=self.position_embedding.weight.device)
        return cast(Tensor, self.position_embedding(places))

    def enter(self, item_vectors: Tensor) -> Tensor:
        """What of (..., H) items, their places added, enters the first block."""
        return cast(Tensor, self.input_norm(item_vectors))

    def read_inputs(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """``last_states`` from what enters the first block.

        Args:
            inputs: (B, L, H) float, item plus position vectors, normed; right-padded.
            lengths: (B,) int64, at least 1 and at most L.
        Returns:
            (B, H) float.
        """
        places = torch.arange(inputs.shape[1], device=inputs.device)
        sequences = torch.arange(len(lengths), device=lengths.device)
        states = inputs
        blocks: Any = self.blocks
        for number, block in enumerate(blocks, start=1):
            attention, size = block.self_attn, states.shape[-1]
            weight, bias = attention.in_proj_weight, attention.in_proj_bias
            normed = block.norm1(states)
            keys_values = functional.linear(normed, weight[size:], bias[size:])
            mask = None
            if number == len(self.blocks):
                normed = normed[sequences, lengths - 1].unsqueeze(1)  # (B, 1, H)
                states = states[sequences, lengths - 1].unsqueeze(1)
                mask = (places < lengths.unsqueeze(1))[:, None, None]  # (B, 1, 1, L)
            queries = functional.linear(normed, weight[:size], bias[:size])
            read = functional.scaled_dot_product_attention(
                self._by_head(queries),
                self._by_head(keys_values[..., :size]),
                self._by_head(keys_values[..., size:]),
                attn_mask=mask,
                is_causal=mask is None,
            )
            states = states + attention.out_proj(read.transpose(1, 2).flatten(2))
            states = states + block.linear2(block.activation(block.linear1(block.norm2(states))))
        return cast(Tensor, self.output_norm(states.squeeze(1)))

    def _by_head(self, vectors: Tensor) -> Tensor:
        """(B, L, H) to (B, heads, L, H / heads)."""
        return vectors.view(*vectors.shape[:2], self.n_heads, -1).transpose(1, 2)


Reader = SequenceEncoder | LinearReader


def build_reader(config: SequenceConfig) -> Reader:
    """What reads histories, with random weights."""
    if config.reader == "linear":
        return LinearReader(config.hidden_size, config.max_seq_length, config.hidden_dropout_prob)
    return SequenceEncoder(config)


class Network(nn.Module):
    """The trained parts together, so that their weights are averaged together."""

    def __init__(
        self, items: ItemEncoder, sequences: Reader, repeats: RepeatBias | None,
        names: NameDecoder | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.items = items
        self.sequences = sequences
        self.repeats = repeats
        self.names = names


def last_states(encoder: Reader, items: Tensor, item_seq: Tensor, length: Tensor) -> Tensor:
    """Each sequence's state after its last real item, without dropout.

    Args:
        items: (V, H) float item vectors.
        item_seq: (B, L) int64 rows of ``items``, right-padded with 0.
        length: (B,) int64, at least 1.
    Returns:
        (B, H) float.
    """
    states = items.new_empty(len(item_seq), items.shape[1])
    step = _AT_ONCE.get(item_seq.device.type, 256)
    order = length.argsort()  # like lengths together: little padding
    for start in range(0, len(order), step):
        some = order[start : start + step]
        width = int(length[some].max())
        states[some] = encoder.last_states(items[item_seq[some, :width]], length[some])
    return states


def score_vectors(vectors: Tensor, config: SequenceConfig) -> Tensor:
    """Prepare states or item vectors so that their plain product is the score.

    Args:
        vectors: (..., H) float.
    Returns:
        (..., H): unchanged for ``dot``; for ``cosine`` of length 1/sqrt(temperature).
    """
    if config.score == "dot":
        return vectors
    unit: Tensor = functional.normalize(vectors, dim=-1)
    return unit / math.sqrt(config.temperature)
