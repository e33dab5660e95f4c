"""A whole explanation of a trained model, and of artifacts that hold less."""

import shutil
from pathlib import Path

import pytest

from recbole_llm.errors import NotFoundError
from recbole_llm.explain.explainer import Explainer
from recbole_llm.item_parts import PARTS
from recbole_llm.scoring import write_artifact
from tests.data import random_artifact
from tests.recbole_llm.explain.conftest import train_cycle


def test_the_last_item_of_a_cycle_carries_the_next(trained: Path) -> None:
    explainer = Explainer(trained)
    found = explainer.explain(["i1", "i2", "i3", "i4"], ["i5"])
    (item,) = found.items
    assert item.history[0].item_id == "i4"
    assert item.history[0].places == [4]
    falls = [met.left_out for met in item.history]
    assert falls == sorted(falls, reverse=True)
    assert sum(met.attention for met in item.history) == pytest.approx(1, abs=1e-5)
    assert item.sentence.startswith("Because of Film i4 of the cycle")
    assert found.read == [f"Film i{n} of the cycle" for n in (1, 2, 3, 4)]
    assert found.gradients.shape == (1, 4)
    assert found.attention.shape == (2, 2, 4, 4)
    assert found.notes == []
    assert item.text == "Film i5 of the cycle"
    assert item.shares is not None
    assert item.shares.completeness_error < 0.05
    assert item.shares.score == pytest.approx(item.score, abs=1e-4)
    assert item.words is not None
    assert [list(word.of) for word in item.words.words] == [[*item.words.total]] * 5


def test_the_sentence_says_what_the_texts_share(trained: Path) -> None:
    explainer = Explainer(trained)
    categories = {f"i{n}": "Round" for n in range(12)}
    (item,) = explainer.explain(["i4"], ["i5"], categories).items
    assert item.sentence.startswith("Because of Film i4 of the cycle; both are of category Round")
    said = item.sentence.partition(" and say ")[2]
    assert "i4" not in said
    assert "i5" not in said
    (item,) = explainer.explain(["i4"], ["i5"], {**categories, "i5": "Square"}).items
    assert "category" not in item.sentence


def test_an_older_item_that_is_met_again(trained: Path) -> None:
    (item,) = Explainer(trained).explain(["i7", "i4", "i7", "cold"], ["i7"]).items
    met = {each.item_id: each for each in item.history}
    assert met["i7"].places == [1, 3]
    assert item.shares is not None
    assert item.shares.of["met before"] != 0


def test_unknown_items(trained: Path) -> None:
    explainer = Explainer(trained)
    found = explainer.explain(["i4", "unheard"], ["i5"])
    assert found.notes == ["1 of the history's items are not known to the model"]
    assert found.items == explainer.explain(["i4"], ["i5"]).items
    with pytest.raises(NotFoundError, match="does not know item 'i99': it is not among its 13"):
        explainer.explain(["i4"], ["i5", "i99"])
    with pytest.raises(NotFoundError, match=r"knows none of the 2 items .* \['x', 'y'\]"):
        explainer.explain(["x", "y"], ["i5"])


def test_an_artifact_of_before_explains_the_history_alone(trained: Path, tmp_path: Path) -> None:
    old = tmp_path / trained.name
    shutil.copytree(trained, old, ignore=shutil.ignore_patterns(*PARTS))
    found = Explainer(old).explain(["i3", "i4"], ["i5"])
    whole = Explainer(trained).explain(["i3", "i4"], ["i5"])
    assert found.items[0].history == whole.items[0].history
    assert (found.items[0].shares, found.items[0].words, found.items[0].text) == (None, None, "")
    assert len(found.notes) == 1
    assert found.notes[0].startswith("neither shares nor words: artifact")
    assert "is of an older version of recbole_llm; train again" in found.notes[0]


def test_an_encoder_that_is_gone_leaves_its_words_out(
    tmp_path: Path, tiny_encoders: dict[str, Path]
) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny_encoders["bert"], encoder)
    path = train_cycle(tmp_path, f"{encoder}+tfidf", epochs=1)
    shutil.rmtree(encoder)
    found = Explainer(path).explain(["i3", "i4"], ["i5"])
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"no words of {encoder}: ")
    words = found.items[0].words
    assert words is not None
    assert list(words.total) == ["tfidf"]


def test_without_text(tmp_path: Path) -> None:
    path = write_artifact(random_artifact(["a", "b", "c"]), tmp_path)
    found = Explainer(path).explain(["a"], ["c"])
    assert found.items[0].shares is None
    path = train_cycle(tmp_path, "tfidf", item_repr="id", epochs=1)
    found = Explainer(path).explain(["i3", "i4"], ["i5"])
    assert (found.notes, found.items[0].words) == ([], None)
    assert found.items[0].shares is not None
    assert "item id" in found.items[0].shares.of
