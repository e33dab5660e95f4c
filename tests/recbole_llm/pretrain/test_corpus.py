from pathlib import Path

import numpy as np
import pytest

from recbole_llm.errors import DataError
from recbole_llm.pretrain.corpus import Corpus, read_corpus
from recbole_llm.train import build_config, build_data
from tests.data import write_atomic

TEXTS = {f"i{n}": f"Text {n}" for n in range(9)}


def _corpus(parent: Path, sequences: dict[str, list[str]], texts: dict[str, str]) -> Corpus:
    write_atomic(parent, "shop", sequences, texts)
    config = build_config("LLMSeqRec", "shop", None, {"data_path": str(parent)})
    data, (train, valid, _) = build_data(config)
    return read_corpus(data, train.dataset, valid.dataset)


def _titles(corpus: Corpus, items: object) -> list[str]:
    return [corpus.texts[item] for item in np.ravel(items)]


def test_order_comes_from_the_training_rows(tmp_path: Path) -> None:
    corpus = _corpus(
        tmp_path, {"u": ["i0", "i1", "i2", "i3", "i4"], "v": ["i5", "i6", "i0", "i7"]}, TEXTS
    )
    sequences = [_titles(corpus, items) for items in corpus.sequences]
    assert sorted(sequences) == [["Text 0", "Text 1", "Text 2"], ["Text 5", "Text 6"]]
    pairs = [_titles(corpus, pair) for pair in corpus.pairs(window=1)]
    assert sorted(pairs) == [["Text 0", "Text 1"], ["Text 1", "Text 2"], ["Text 5", "Text 6"]]
    assert ["Text 0", "Text 2"] in [_titles(corpus, pair) for pair in corpus.pairs(window=2)]
    valid = sorted(_titles(corpus, pair) for pair in corpus.valid_pairs())
    assert valid == [["Text 2", "Text 3"], ["Text 6", "Text 0"]]
    assert sorted(corpus.rendered(2)) == ["Text 0\nText 1", "Text 5\nText 6"]


def test_test_rows_change_nothing(tmp_path: Path) -> None:
    sequences = {f"u{n}": [f"i{(n + step) % 7}" for step in range(5)] for n in range(7)}
    other = {user: [*items[:-1], "i8"] for user, items in sequences.items()}
    found = []
    for name, events in (("one", sequences), ("other", other)):
        corpus = _corpus(tmp_path / name, events, TEXTS)
        found.append(
            (
                sorted(_titles(corpus, items) for items in corpus.sequences),
                sorted(_titles(corpus, pair) for pair in corpus.pairs(3)),
                sorted(corpus.rendered(3)),
                sorted(_titles(corpus, pair) for pair in corpus.valid_pairs()),
            )
        )
    assert found[0] == found[1]


def test_items_without_text_and_twins_are_left_out(tmp_path: Path) -> None:
    texts = {**TEXTS, "i1": "", "i3": "Text 2"}
    corpus = _corpus(tmp_path, {"u": ["i0", "i1", "i2", "i3", "i4", "i5", "i6"]}, texts)
    assert [_titles(corpus, items) for items in corpus.sequences] == [
        ["Text 0", "Text 2", "Text 2", "Text 4"]
    ]
    assert [_titles(corpus, pair) for pair in corpus.pairs(1)] == [
        ["Text 0", "Text 2"], ["Text 2", "Text 4"],
    ]  # fmt: skip
    assert corpus.described() == list(dict.fromkeys(text for text in corpus.texts if text))


def test_nothing_to_read(tmp_path: Path) -> None:
    texts = dict.fromkeys(TEXTS, "The same")
    with pytest.raises(DataError, match="1 different item texts, and 1 users with two items"):
        _corpus(tmp_path, {"u": ["i0", "i1", "i2", "i3"]}, texts)


def test_nobody_to_hold_it_against(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the split leaves no user a validation item"):
        _corpus(tmp_path, {"u": ["i0", "i1", "i2", "i2", "i3"]}, TEXTS)
