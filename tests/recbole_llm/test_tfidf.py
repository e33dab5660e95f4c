import numpy as np
import pytest

from recbole_llm.errors import DataError
from recbole_llm.tfidf import fit_tfidf

TEXTS = [
    "steel hinge by Acme",
    "steel bolt by Zenith",
    "steel hinge by Zenith",
    "steel bolt by Acme",
    "brass lamp by Acme",
    "steel hinge by Acme",
]


def test_texts_that_share_words_are_alike_and_equal_ones_equal() -> None:
    vectors, _, _ = fit_tfidf(TEXTS)
    # Eight words, but six texts: at most five directions.
    assert vectors.shape == (6, 5)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[0], vectors[5], atol=1e-6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    # "hinge" and "bolt" are rarer than "steel" and "by", which nearly all share.
    assert likeness[0, 2] > likeness[0, 1]
    assert likeness[0, 3] > likeness[0, 1]


def test_the_same_texts_give_the_same_vectors() -> None:
    np.testing.assert_array_equal(fit_tfidf(TEXTS)[0], fit_tfidf(TEXTS)[0])


def test_texts_without_a_word_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(
        DataError, match=r"no word of two letters .* in the 2 texts.*encoder=minilm"
    ):
        fit_tfidf(["a", "?"])


def test_new_texts_are_weighed_as_those_that_it_learnt_from() -> None:
    vectors, terms, projection = fit_tfidf(TEXTS)
    assert terms.words == ["acme", "bolt", "brass", "by", "hinge", "lamp", "steel", "zenith"]
    np.testing.assert_allclose(terms.weigh(TEXTS) @ projection, vectors, atol=1e-6)
    (weights,) = terms.weigh(["Hinge? A hinge! By nobody."]).toarray()
    # ln((1 + 6) / (1 + 3)) + 1 and ln((1 + 6) / (1 + 6)) + 1, the first times 1 + ln 2
    hinge, by = 1.559616 * 1.693147, 1.0
    expected = np.array([0, 0, 0, by, hinge, 0, 0, 0]) / np.hypot(hinge, by)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert terms.weigh([""]).nnz == 0
