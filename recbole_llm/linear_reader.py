"""A user's state as a linear map of the items they met: the model of the source article.

It gives a user the state u = W·I + b, of what they met, an item the state i = Wᵀ·U + c, of who met
it, and ranks by softmax(u·i). Here I is the mean of the items' vectors, each weighted by how long ago
it was met, and U an item's own vector. Then u·U = Uᵀ·W·I + bᵀ·U and I·i = Uᵀ·W·I + cᵀ·I: both ways
round it is one bilinear form, plus a term of the item alone and a term of the history alone. The last
is the same for all items and ranks nothing, so W and b are all there is to learn. Each item of the
history has its exact share of a score, and so has each of their parts.
"""

import torch
from torch import Tensor, nn

from recbole_llm.packing import pack


class LinearReader(nn.Module):
    """Reads sequences as a weighted mean and one linear map.

    Args:
        hidden_size: H.
        max_seq_length: L, the longest sequence.
        dropout_prob: the probability of an item to be left out of a mean, in training.
    """

    def __init__(self, hidden_size: int, max_seq_length: int, dropout_prob: float) -> None:
        super().__init__()
        self.map = nn.Linear(hidden_size, hidden_size)
        nn.init.eye_(self.map.weight)  # at first: more of what was met
        nn.init.zeros_(self.map.bias)
        self.lag_logits = nn.Parameter(-torch.arange(1, max_seq_length + 1).log())  # (L,)
        self.dropout_prob = dropout_prob

    def forward(self, item_vectors: Tensor, lengths: Tensor) -> Tensor:
        """Read sequences, a state after each item; as ``SequenceEncoder.forward``.

        Args:
            item_vectors: (N, H) float, the items of B sequences one after another, oldest first.
            lengths: (B,) int64, at least 1 and at most ``max_seq_length``; they add up to N.
        Returns:
            (N, H) float.
        """
        packing = pack(lengths)
        n_rows, width, _ = packing.hidden.shape
        rows = item_vectors.new_zeros(n_rows * width, item_vectors.shape[1])
        rows = rows.index_copy(0, packing.places, item_vectors).view(n_rows, width, -1)
        hidden = packing.hidden
        if self.training and self.dropout_prob:
            dropped = torch.rand(hidden.shape, device=hidden.device) < self.dropout_prob
            itself = torch.eye(width, dtype=torch.bool, device=hidden.device)
            hidden = hidden | (dropped & ~itself)  # the newest stays, so that nobody reads nothing
        weights = self._by_lag(width).masked_fill(hidden, -torch.inf)
        # Places between the sequences read nothing; what they would come to is not taken.
        means = weights.softmax(2).nan_to_num() @ rows  # (R, W, H)
        states: Tensor = self.map(means.flatten(0, 1)[packing.places])
        return states

    def last_states(self, item_vectors: Tensor, lengths: Tensor) -> Tensor:
        """The states after the last items alone, as ``forward`` gives them without dropout.

        Args:
            item_vectors: (B, L, H) float, right-padded with anything finite.
            lengths: (B,) int64, at least 1 and at most L.
        Returns:
            (B, H) float.
        """
        return self.read_inputs(item_vectors, lengths)

    def order(self, length: int) -> Tensor:
        """(L, H) what the places add to the items: nothing."""
        return self.map.weight.new_zeros(length, self.map.in_features)

    def enter(self, item_vectors: Tensor) -> Tensor:
        """What of (..., H) items is read: all, as it is."""
        return item_vectors

    def read_inputs(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """``last_states`` from what ``enter`` gives."""
        weights = self.weights(lengths, inputs.shape[1])
        states: Tensor = self.map((weights.unsqueeze(2) * inputs).sum(1))
        return states

    def weights(self, lengths: Tensor, width: int) -> Tensor:
        """(B, L) what each place counts at the end of sequences of (B,) lengths; padding 0."""
        lags = lengths.unsqueeze(1) - 1 - torch.arange(width, device=lengths.device)
        logits = self.lag_logits[lags.clamp(min=0)].masked_fill(lags < 0, -torch.inf)
        return logits.softmax(1)

    def looks(self, length: int) -> Tensor:
        """(1, 1, L, L) what each place counts (columns) for the state after each other (rows)."""
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = self._by_lag(length).masked_fill(hidden, -torch.inf).softmax(1)
        return weights[None, None]

    def shares(self, item_vectors: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """The share that each place has in scores, exactly; what b adds is nobody's.

        Args:
            item_vectors: (B, L, H) float, right-padded with anything finite.
            lengths: (B,) int64.
            targets: (B, R, H) float, what states are multiplied by.
        Returns:
            (B, R, L) float; padding has 0.
        """
        weights = self.weights(lengths, item_vectors.shape[1])
        return (targets @ self.map.weight @ item_vectors.transpose(1, 2)) * weights.unsqueeze(1)

    def _by_lag(self, width: int) -> Tensor:
        """(W, W) logits of each place (columns) for each other (rows)."""
        places = torch.arange(width, device=self.lag_logits.device)
        return self.lag_logits[(places.unsqueeze(1) - places).clamp(min=0)]
