"""LLMSeqRec: RecBole's adapter around the network in ``layers``."""

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor
from torch.nn import functional

from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.layers import ItemEncoder, SequenceEncoder, last_state, score_vectors


class LLMSeqRec(SequentialRecommender):  # type: ignore[misc]
    """A causal sequence model over items that a pretrained language model describes.

    An item is a trainable ID vector plus an adapted, whitened text vector; a user is the state of a
    causal self-attention network after the last item; a score is their product. Trained by full
    cross-entropy at every position of a sequence.

    Source: SASRec (arXiv:1808.09781) with text as in UniSRec (arXiv:2206.05941); unlike SASRec the
    loss is the softmax over the whole catalogue, unlike UniSRec the ID vector stays.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Config, dataset: LLMSeqRecDataset) -> None:
        super().__init__(config, dataset)
        options = dataset.options
        self.sequence_config = options.sequence
        text_vectors = None
        if options.uses_text:
            text_vectors = torch.from_numpy(dataset.text_vectors(str(config["device"])))
        # Not persistent: a checkpoint does not carry what the cache holds.
        self.register_buffer("text_vectors", text_vectors, persistent=False)
        self.item_encoder = ItemEncoder(
            self.n_items,
            options.sequence.hidden_size,
            0 if text_vectors is None else text_vectors.shape[1],
            options.uses_id,
            options.sequence.initializer_range,
        )
        self.sequence_encoder = SequenceEncoder(options.sequence)

    def item_matrix(self) -> Tensor:
        """(V, H) float item vectors by RecBole id; row 0 is zero."""
        items: Tensor = self.item_encoder(self.text_vectors)
        return items

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """(B, H) user states for (B, L) int64 sequences of (B,) int64 lengths."""
        return last_state(self.sequence_encoder(self.item_matrix()[item_seq]), item_seq_len)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean cross-entropy over every real position of the batch's windows."""
        item_seq = interaction[self.ITEM_SEQ]
        item_seq_len = interaction[self.ITEM_SEQ_LEN]
        item_seq = item_seq[:, : int(item_seq_len.max())]  # (B, L')
        # The target of position t is item t+1; after the last one it is the row's own target.
        targets = functional.pad(item_seq[:, 1:], (0, 1))
        rows = torch.arange(len(item_seq), device=item_seq.device)
        targets[rows, item_seq_len - 1] = interaction[self.POS_ITEM_ID]
        items = self.item_matrix()
        states = self.sequence_encoder(items[item_seq])  # (B, L', H)
        is_real_item = item_seq > 0
        states = score_vectors(states[is_real_item], self.sequence_config)  # (N, H)
        logits = states @ score_vectors(items[1:], self.sequence_config).T  # (N, V-1)
        return functional.cross_entropy(logits, targets[is_real_item] - 1)

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,) scores of each row's own target."""
        states = self._states(interaction)
        items = score_vectors(self.item_matrix()[interaction[self.ITEM_ID]], self.sequence_config)
        return (states * items).sum(-1)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, V) scores of all items; column 0 is padding and scores 0."""
        items = score_vectors(self.item_matrix(), self.sequence_config)
        return self._states(interaction) @ items.T

    def _states(self, interaction: Interaction) -> Tensor:
        states = self(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return score_vectors(states, self.sequence_config)
