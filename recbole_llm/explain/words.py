"""Which words of an item's text moved its score.

The score is the product of the user's state and the item's vector, and the text is a part of that
vector. What a text adds is therefore a number, a linear map away from what the encoder said of it:

**TF-IDF** is linear in the words, so each word's part of that number is exact.
**A language model** is not. Integrated gradients over its token embeddings, through pooling and the
linear map, share the number out; the way starts from the same text with its words hidden. The tokens of
a word are added up.

Source: Sundararajan et al., arXiv:1703.01365, by captum's LayerIntegratedGradients.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.explain.shares import CLOSE, STEPS
from recbole_llm.item_parts import TextPart
from recbole_llm.text_encoder import features_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_WORD = re.compile(r"\w+|[^\w\s]")
_OTHER_VECTOR = 0.1
"""By how much of itself a text's part may differ from the one that the artifact holds. Half precision
and products in bfloat16 stay far below."""
_AT_ONCE = 32


@dataclass(frozen=True)
class Word:
    """A word or a sign of a text."""

    start: int
    """Its first character's place in the text."""
    text: str
    of: dict[str, float]
    """By encoder, what it adds to the score."""


@dataclass(frozen=True)
class Words:
    """A text's part of a score, word by word."""

    words: list[Word]
    """In the text's order."""
    rest: dict[str, float]
    """By encoder, what the text adds with its words hidden; of TF-IDF, what no word does: the average
    text's part, with the sign turned. Words and rest add up to ``total``."""
    total: dict[str, float]
    """By encoder, what the text adds to the score."""
    error: dict[str, float]
    """By encoder, how far words and rest are from the total, over the difference of total and rest."""


def split(text: str) -> list[tuple[int, str]]:
    """The words and signs of a text, with the places where they begin."""
    return [(found.start(), found.group()) for found in _WORD.finditer(text)]


def term_contributions(source: TextPart, text: str, state: Tensor) -> dict[str, float]:
    """What each word of a text adds to a score through TF-IDF, exactly.

    Args:
        source: the part of TF-IDF.
        state: (H,) float32, what item vectors are multiplied by.
    Returns:
        By word, in lower case; words that TF-IDF did not learn are left out.
    """
    assert source.terms is not None
    weights = source.terms.weigh([text])
    worth = source.matrix.numpy()[weights.indices] @ state.numpy()
    return {
        source.terms.words[term]: float(weight * each)
        for term, weight, each in zip(weights.indices, weights.data, worth, strict=True)
    }


def word_parts(source: TextPart, text: str, state: Tensor) -> Words:
    """A text's part of a score through TF-IDF; a word that stands twice has half of it at each place.

    Args:
        source, state: as ``term_contributions`` takes them.
    """
    of_term = term_contributions(source, text, state)
    places = split(text)
    counts = Counter(word.lower() for _, word in places)
    name = source.encoder
    words = [
        Word(start, word, {name: of_term.get(word.lower(), 0.0) / counts[word.lower()]})
        for start, word in places
    ]
    rest = float(source.offset @ state)
    total = rest + sum(of_term.values())
    rest += sum(each for term, each in of_term.items() if term not in counts)
    told = rest + sum(word.of[name] for word in words)
    return Words(words, {name: rest}, {name: total}, {name: _error(told, total, rest)})


class LanguageWords:
    """A language model whose words can be told.

    Args:
        model: from ``load_sentence_transformer``.
        source: the part of the item vectors that it made.
    Raises:
        ConfigError: it has no layer of token embeddings, or its tokenizer does not say where tokens
            stand in a text.
    """

    def __init__(self, model: "SentenceTransformer", source: TextPart) -> None:
        self._model, self._source = model.eval().requires_grad_(False), source
        self._tokenizer: Any = model.tokenizer
        network: Any = getattr(model[0], "model", None)
        if network is None or not getattr(self._tokenizer, "is_fast", False):
            raise ConfigError(
                f"encoder {source.encoder!r}: its {type(model[0]).__name__} or its "
                f"{type(self._tokenizer).__name__} does not tell which token is which word"
            )
        self._embeddings = network.get_input_embeddings()
        tokenizer = self._tokenizer
        hidden = (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        self._hidden = next(token for token in hidden if token is not None)
        self._prompt = model.prompts.get(model.default_prompt_name or "") or ""

    def __call__(self, text: str, state: Tensor, kept: Tensor) -> Words:
        """A text's part of a score.

        Args:
            text: an item's, not empty.
            state: (H,) float32, what item vectors are multiplied by.
            kept: (H,) float32, the artifact's part for this text.
        Raises:
            ArtifactError: the encoder reads the text otherwise than when the artifact was made.
        """
        from captum.attr import LayerIntegratedGradients

        features = features_of(self._model, [text])
        tokens = features["input_ids"]
        places, is_fixed = self._places(text, tokens)
        direction = self._source.matrix @ state  # (E,)
        constant = float(self._source.offset @ state)
        self._check(features, kept)

        def part(ids: Tensor) -> Tensor:
            many = {
                name: value.expand(len(ids), -1) if torch.is_tensor(value) else value
                for name, value in features.items()
            }
            vectors: Tensor = self._model({**many, "input_ids": ids})["sentence_embedding"]
            return vectors.float() @ direction + constant

        hidden = torch.where(is_fixed, tokens, self._hidden)
        with torch.no_grad():
            total, rest = float(part(tokens)), float(part(hidden))
        method = LayerIntegratedGradients(part, self._embeddings)
        for n_steps in STEPS:
            attributed = method.attribute(
                tokens, hidden, n_steps=n_steps, internal_batch_size=_AT_ONCE
            )
            of_token = attributed.sum(2).squeeze(0).tolist()
            error = _error(sum(of_token) + rest, total, rest)
            if error <= CLOSE:
                break
        name, of_word = self._source.encoder, _by_word(split(text), places, of_token)
        words = [Word(start, word, {name: each}) for (start, word), each in of_word]
        return Words(words, {name: rest}, {name: total}, {name: error})

    def _places(self, text: str, tokens: Tensor) -> tuple[list[tuple[int, int]], Tensor]:
        """Where each token begins and ends in the text, and (1, T) whether it is none of the text's."""
        told = self._tokenizer(
            self._prompt + text, truncation=True, max_length=self._model.max_seq_length,
            return_offsets_mapping=True, return_special_tokens_mask=True,
        )  # fmt: skip
        if told["input_ids"] != tokens[0].tolist():
            raise ConfigError(
                f"encoder {self._source.encoder!r} puts more around a text than its tokenizer does; "
                "its words cannot be told"
            )
        before = len(self._prompt)
        places = [(start - before, end - before) for start, end in told["offset_mapping"]]
        special = zip(told["special_tokens_mask"], places, strict=True)
        return places, torch.tensor([[bool(mask) or end <= 0 for mask, (_, end) in special]])

    def _check(self, features: dict[str, Any], kept: Tensor) -> None:
        with torch.no_grad():
            read = self._model(dict(features))["sentence_embedding"].float()
        part = (read @ self._source.matrix + self._source.offset).squeeze(0)
        off = float((part - kept).norm() / kept.norm().clamp(min=1e-6))
        if off > _OTHER_VECTOR:
            raise ArtifactError(
                f"encoder {self._source.encoder!r} reads a text otherwise than when the artifact was "
                f"made: its part is off by {off:.2g} of itself. Its weights or settings are others "
                "now; restore them or train again"
            )


def join(parts: list[Words]) -> Words:
    """The words of one text by several encoders, together."""
    words = [
        Word(same[0].start, same[0].text, {k: v for each in same for k, v in each.of.items()})
        for same in zip(*(part.words for part in parts), strict=True)
    ]
    rest, total, error = ({}, {}, {})  # type: dict[str, float], dict[str, float], dict[str, float]
    for part in parts:
        rest |= part.rest
        total |= part.total
        error |= part.error
    return Words(words, rest, total, error)


def _by_word(
    words: list[tuple[int, str]], places: list[tuple[int, int]], of_token: list[float]
) -> list[tuple[tuple[int, str], float]]:
    """Add tokens up to the words in which they lie with most of their characters."""
    found = [0.0] * len(words)
    for (start, end), each in zip(places, of_token, strict=True):
        overlap = [min(end, at + len(word)) - max(start, at) for at, word in words]
        if overlap and end > start and end > 0:
            found[int(np.argmax(overlap))] += each
    return list(zip(words, found, strict=True))


def _error(told: float, total: float, rest: float) -> float:
    return abs(told - total) / max(abs(total - rest), 1e-6)
