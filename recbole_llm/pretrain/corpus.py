"""What is read in pre-training: item texts, and the order in which people met them.

The order comes from the training rows of RecBole's split alone. Of the validation rows each user's
last step is kept apart, to measure by; the test rows are not looked at.

Sizes: V items including padding, U users.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.errors import DataError


@dataclass(frozen=True)
class Corpus:
    """The texts and the orders of one data set."""

    texts: list[str]
    """V texts by RecBole id; "" for padding and for items without text."""
    sequences: list[NDArray[np.int64]]
    """Each user's training items that have a text, oldest first."""
    last: NDArray[np.int64]
    """(U,) each user's last training item."""
    following: NDArray[np.int64]
    """(U,) the validation item that came next."""

    def pairs(self, window: int) -> NDArray[np.int64]:
        """(N, 2) items met one after another, at most ``window`` steps apart, of different texts."""
        found = [
            np.stack([items[:-step], items[step:]], 1)
            for items in self.sequences
            for step in range(1, window + 1)
            if len(items) > step
        ]
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *found])
        differs = np.array([self.texts[one] != self.texts[other] for one, other in pairs], bool)
        different: NDArray[np.int64] = pairs[differs]
        return different

    def described(self) -> list[str]:
        """The distinct item texts, in the items' order."""
        return list(dict.fromkeys(text for text in self.texts if text))

    def rendered(self, n_items: int) -> list[str]:
        """Behaviour as text: ``n_items`` consecutive items of a user, a line each, oldest first."""
        return [
            "\n".join(self.texts[item] for item in items[start : start + n_items])
            for items in self.sequences
            if len(items)
            for start in range(0, max(len(items) - 1, 1), n_items)
        ]

    def digest(self) -> str:
        """Hash of all of it."""
        found = hashlib.sha256(json.dumps(self.texts).encode())
        for part in (*self.sequences, self.last, self.following):
            found.update(f"{len(part)}\n".encode())
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()[:12]

    def valid_pairs(self) -> NDArray[np.int64]:
        """(N, 2) last training item and the other one that followed, where both have a text."""
        pairs = np.stack([self.last, self.following], 1)
        has_text = np.array([bool(text) for text in self.texts])
        is_kept = has_text[pairs].all(1) & (pairs[:, 0] != pairs[:, 1])
        kept: NDArray[np.int64] = pairs[is_kept]
        return kept


def read_corpus(
    dataset: LLMSeqRecDataset, train: LLMSeqRecDataset, valid: LLMSeqRecDataset
) -> Corpus:
    """The corpus of a data set and its split.

    Raises:
        DataError: fewer than two items have a text, nobody met two of them, or nobody met another
            behind them.
    """
    texts = dataset.item_texts()
    has_text = np.array([bool(text) for text in texts])
    sequences = [items[has_text[items]] for items in train.training_sequences()]
    last, following = valid.training_pairs()
    corpus = Corpus(texts, sequences, last, following)
    if len(corpus.described()) < 2 or not any(len(items) > 1 for items in sequences):
        raise DataError(
            f"nothing to pre-train on: {len(corpus.described())} different item texts, and "
            f"{sum(len(items) > 1 for items in sequences)} users with two items that have one"
        )
    if not len(corpus.valid_pairs()):
        raise DataError(
            "nothing to hold what is learnt against: the split leaves no user a validation item with a "
            "text, and another one before it; lower the filters, or take a larger data set"
        )
    return corpus
