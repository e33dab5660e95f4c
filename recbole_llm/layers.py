"""The network, as plain modules: what training optimises and what scoring rebuilds.

Sizes: B sequences, L items in a sequence, H hidden size, E text-vector width, V items including
the padding row 0. Sequences run oldest to newest and are right-padded with 0.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


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


class ItemEncoder(nn.Module):
    """One vector an item: a trainable ID vector plus an adapted text vector.

    The adaptor is one linear map without bias, so an item without text (a row of zeros) is
    described by its ID alone, and an item that nobody has met by its text alone.

    Args:
        n_items: V, including padding.
        hidden_size: H.
        text_size: E, or 0 for a model without text.
        use_id: keep a trainable vector an item.
        initializer_range: standard deviation of the initial ID vectors.
    """

    def __init__(
        self,
        n_items: int,
        hidden_size: int,
        text_size: int,
        use_id: bool,
        initializer_range: float,
    ) -> None:
        super().__init__()
        self.id_embedding: nn.Embedding | None = None
        self.adaptor: nn.Linear | None = None
        if use_id:
            self.id_embedding = nn.Embedding(n_items, hidden_size, padding_idx=0)
            nn.init.normal_(self.id_embedding.weight, std=initializer_range)
        if text_size:
            self.adaptor = nn.Linear(text_size, hidden_size, bias=False)
            # Text rows have unit variance an entry, so this gives an adapted entry the same spread
            # as an ID entry: neither source drowns the other at the start.
            nn.init.normal_(self.adaptor.weight, std=initializer_range / text_size**0.5)

    def forward(self, text_vectors: Tensor | None) -> Tensor:
        """Build the item matrix.

        Args:
            text_vectors: (V, E) float, whitened; row 0 is padding. None without text.
        Returns:
            (V, H) float; row 0 is zero.
        """
        items: Tensor | None = None
        if self.id_embedding is not None:
            items = self.id_embedding.weight  # (V, H)
        if self.adaptor is not None:
            assert text_vectors is not None, "a model with an adaptor needs text vectors"
            adapted = self.adaptor(text_vectors)  # (V, H)
            items = adapted if items is None else items + adapted
        assert items is not None, "a model needs an ID vector, a text vector, or both"
        is_item = torch.ones(len(items), 1, dtype=items.dtype, device=items.device)
        is_item[0] = 0
        return items * is_item


class SequenceEncoder(nn.Module):
    """Causal self-attention over the items a user met.

    The state at position t depends on items 0..t and on nothing later, so one pass yields a
    training signal at every position. Real items precede padding; the causal mask alone therefore
    keeps padding out of every real state.

    Source: SASRec, arXiv:1808.09781; pre-norm blocks as in arXiv:2002.04745.
    """

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
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

    def forward(self, item_vectors: Tensor) -> Tensor:
        """Read sequences.

        Args:
            item_vectors: (B, L, H) float, L at most ``max_seq_length``.
        Returns:
            (B, L, H) float; [b, t] is the user's state after item t.
        """
        length = item_vectors.shape[1]
        positions = torch.arange(length, device=item_vectors.device)
        states = item_vectors + self.position_embedding(positions)
        states = self.dropout(self.input_norm(states))
        mask = nn.Transformer.generate_square_subsequent_mask(
            length, device=states.device, dtype=states.dtype
        )  # (L, L)
        for block in self.blocks:
            states = block(states, src_mask=mask, is_causal=True)
        return cast(Tensor, self.output_norm(states))


def last_state(states: Tensor, item_seq_len: Tensor) -> Tensor:
    """Take each sequence's state after its last real item.

    Args:
        states: (B, L, H) float.
        item_seq_len: (B,) int64, at least 1.
    Returns:
        (B, H).
    """
    rows = torch.arange(len(states), device=states.device)
    return states[rows, item_seq_len - 1]


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
