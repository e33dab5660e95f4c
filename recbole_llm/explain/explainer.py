"""All that can be said of why items suit a history, from an artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_llm.encoder import find_encoder, locate_weights
from recbole_llm.errors import ArtifactError, ConfigError, NotFoundError
from recbole_llm.explain.history import attention, gradient, leave_out
from recbole_llm.explain.sentence import N_NAMED, N_WORDS, strongest, write_sentence
from recbole_llm.explain.shares import Shares, shares
from recbole_llm.explain.words import LanguageWords, Words, join, term_contributions, word_parts
from recbole_llm.item_parts import ItemParts, TextPart, read_parts
from recbole_llm.layers import score_vectors
from recbole_llm.modalities import TEXT
from recbole_llm.scoring import load_scorer
from recbole_llm.scoring.artifact import ADAPTER


@dataclass(frozen=True)
class MetItem:
    """An item of the history, and what it did for a score."""

    item_id: str
    title: str
    places: list[int]
    """Where it stands in what is read, from 1, oldest first."""
    left_out: float
    """By how much the score falls without it."""
    gradient: float
    """Gradient times input, summed over its places."""
    attention: float
    """How much the last block looked at it from the end of the history, a share of 1, the mean over
    heads. No proof that it moved the score."""


@dataclass(frozen=True)
class ItemExplanation:
    """Why one item suits a history."""

    item_id: str
    title: str
    score: float
    sentence: str
    history: list[MetItem]
    """Each item once, the one that carries the score most first."""
    text: str
    """The item's, as it was read; "" where it is not known."""
    shares: Shares | None
    words: Words | None


@dataclass(frozen=True)
class Explanation:
    """Why some items suit a history."""

    model_version: str
    read: list[str]
    """Titles of the L history items that are read, oldest first."""
    items: list[ItemExplanation]
    attention: NDArray[np.float32]
    """(n_layers, n_heads, L, L): how much each place looks at each other."""
    gradients: NDArray[np.float32]
    """(N, L), gradient times input of each item's score."""
    notes: list[str] = field(default_factory=list)
    """What could not be said, and why."""


class Explainer:
    """Explains by one artifact.

    Args:
        path: an artifact's folder.
    Raises:
        ArtifactError: the artifact is absent, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.scorer = load_scorer(path)
        self.scorer.sequence_encoder.requires_grad_(False)
        self._notes: list[str] = []
        self.parts: ItemParts | None = None
        try:
            self.parts = read_parts(path, self.scorer.artifact)
        except ArtifactError as error:
            self._notes.append(f"neither shares nor words: {error}")

    def explain(
        self,
        history: Sequence[str],
        items: Sequence[str],
        categories: Mapping[str, str] | None = None,
    ) -> Explanation:
        """Explain the scores of items for a history.

        Args:
            history: external item ids, oldest first, of any length.
            items: external item ids.
            categories: of items that have one, by external id.
        Raises:
            NotFoundError: the model knows no item of the history, or not an item asked for.
        """
        rows = [self.scorer.row(item) for item in history if self.scorer.row(item)]
        if not rows:
            raise NotFoundError(
                f"model {self._version} knows none of the {len(history)} items of the history, such as "
                f"{list(history[:3])}; it ranks popular items there. Give ids of its items.json"
            )
        unknown = [item for item in items if not self.scorer.row(item)]
        if unknown:
            raise NotFoundError(
                f"model {self._version} does not know item {unknown[0]!r}: it is not among its "
                f"{self.scorer.n_items} items. Check the id, or train on a catalogue that has it"
            )
        notes = [*self._notes]
        if len(rows) < len(history):
            notes.append(
                f"{len(history) - len(rows)} of the history's items are not known to the model"
            )
        read = rows[-self.scorer.artifact.sequence_config.max_seq_length :]
        maps = attention(self.scorer, read)
        wanted = [self.scorer.row(item) for item in items]
        gradients = [gradient(self.scorer, read, item) for item in wanted]
        found = [
            self._explain_item(rows, read, item, maps, gained, categories or {}, notes)
            for item, gained in zip(wanted, gradients, strict=True)
        ]
        return Explanation(
            self._version,
            [self._title(row) for row in read],
            found,
            maps.numpy(),
            np.stack(gradients),
            list(dict.fromkeys(notes)),
        )

    @property
    def _version(self) -> str:
        return self.scorer.artifact.model_version

    def _title(self, row: int) -> str:
        artifact = self.scorer.artifact
        return artifact.titles[row - 1] or artifact.item_ids[row - 1]

    def _explain_item(
        self,
        rows: list[int],
        read: list[int],
        item: int,
        maps: Tensor,
        gained: NDArray[np.float32],
        categories: Mapping[str, str],
        notes: list[str],
    ) -> ItemExplanation:
        looked = maps[-1, :, -1].mean(0).numpy()  # (L,)
        falls = leave_out(self.scorer, rows, item)[-len(read) :]
        met = [self._met_item(row, read, falls, gained, looked) for row in dict.fromkeys(read)]
        met.sort(key=lambda each: -each.left_out)
        state = self._state(rows, item)
        ids = self.scorer.artifact.item_ids
        score = self.scorer.score(np.array(rows), np.array([len(rows)]), np.array([[item]]))
        return ItemExplanation(
            ids[item - 1],
            self._title(item),
            float(score[0, 0]),
            self._sentence(met, item, state, categories),
            met,
            self.parts.text(item) if self.parts else "",
            shares(self.scorer, self.parts, read, item) if self.parts else None,
            self._words(item, state, notes),
        )

    def _met_item(
        self,
        row: int,
        read: list[int],
        falls: NDArray[np.float32],
        gained: NDArray[np.float32],
        looked: NDArray[np.float32],
    ) -> MetItem:
        places = np.flatnonzero(np.array(read) == row)
        return MetItem(
            self.scorer.artifact.item_ids[row - 1],
            self._title(row),
            [int(place) + 1 for place in places],
            float(falls[places[0]]),
            float(gained[places].sum()),
            float(looked[places].sum()),
        )

    def _state(self, rows: list[int], item: int) -> Tensor:
        """(H,) what a part of the item's vector is multiplied by to give its part of the score."""
        states, _, _ = self.scorer.encode(torch.tensor(rows), torch.tensor([len(rows)]))
        vector = self.scorer.item_vectors[item]
        ready = score_vectors(vector, self.scorer.artifact.sequence_config)
        state: Tensor = states[0] * (ready.norm() / vector.norm().clamp(min=1e-12))
        return state

    def _sentence(
        self, met: list[MetItem], item: int, state: Tensor, categories: Mapping[str, str]
    ) -> str:
        falls = {each.item_id: each.left_out for each in met}
        carriers = strongest(falls)[:N_NAMED]
        artifact = self.scorer.artifact
        named = [self.scorer.row(item_id) for item_id in carriers]
        of_all = {categories.get(each) for each in (*carriers, artifact.item_ids[item - 1])}
        return write_sentence(
            [self._title(row) for row in named],
            self._shared_words(named, item, state),
            next(iter(of_all)) if len(of_all) == 1 else None,
            max(falls.values()),
        )

    def _shared_words(self, named: list[int], item: int, state: Tensor) -> list[str]:
        source = next((each for each in self._sources if each.terms is not None), None)
        if source is None or self.parts is None:
            return []
        of_term = term_contributions(source, self.parts.text(item), state)
        shared = set(of_term)
        for row in named:
            shared &= set(term_contributions(source, self.parts.text(row), state))
        return [term for term in strongest(of_term, 0.0) if term in shared][:N_WORDS]

    @property
    def _sources(self) -> list[TextPart]:
        return self.parts.sources if self.parts else []

    def _words(self, item: int, state: Tensor, notes: list[str]) -> Words | None:
        if self.parts is None or not self.parts.text(item):
            return None
        text, found = self.parts.text(item), []
        if any(whole.name == TEXT for whole in self.parts.wholes):
            notes.append("no words: modality_fusion gate weighs a text by a gate that reads it too")
        for source in self._sources:
            if source.terms is not None:
                found.append(word_parts(source, text, state))
                continue
            model = self._language_words[source.encoder]
            if isinstance(model, str):
                notes.append(model)
                continue
            assert source.vectors is not None, "a language model's part is kept"
            try:
                found.append(model(text, state, source.vectors[item].float()))
            except (ArtifactError, ConfigError) as error:
                notes.append(f"no words of {source.encoder}: {error}")
        return join(found) if found else None

    @cached_property
    def _language_words(self) -> dict[str, LanguageWords | str]:
        """By encoder, what tells its words; or why nothing does."""
        told: dict[str, LanguageWords | str] = {}
        for source in self._sources:
            if source.terms is None:
                try:
                    told[source.encoder] = self._load(source)
                except ConfigError as error:
                    told[source.encoder] = f"no words of {source.encoder}: {error}"
        return told

    def _load(self, source: TextPart) -> LanguageWords:
        from recbole_llm.text_encoder import load_sentence_transformer

        spec = find_encoder(source.encoder)
        if (self._path / ADAPTER).is_dir():
            spec = replace(spec, adapter=str(self._path / ADAPTER))
        return LanguageWords(load_sentence_transformer(locate_weights(spec), spec, "cpu"), source)
