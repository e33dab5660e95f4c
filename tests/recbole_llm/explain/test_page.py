"""Whatever a title, a text or a user's id says, the page shows it and does not obey it."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from recbole_llm.explain.explainer import Explainer, Explanation
from recbole_llm.explain.page import render_page
from recbole_llm.explain.words import Word, Words
from tests.recbole_llm.explain.conftest import HOSTILE


class _Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def explanation(trained: Path) -> Explanation:
    return Explainer(trained).explain(["i1", "i2", "i3"], ["i4", "i9"])


def test_what_it_shows(explanation: Explanation) -> None:
    page = _Page(render_page(explanation, {"user": "u1"}))
    for item in explanation.items:
        assert item.sentence in page.text
        assert item.title in page.text
        assert f"{item.score:.3f}" in page.text
        for met in item.history:
            assert f"{met.left_out:+.3f}" in page.text
        assert item.text in page.text
    for expected in ("position", "history tfidf", "looked at, no proof"):
        assert expected in page.text
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)


def test_hostile_titles_are_inert(explanation: Explanation) -> None:
    tame = _Page(render_page(explanation, {"user": "u1"}))
    item = explanation.items[0]
    assert item.words is not None
    words = Words([Word(0, HOSTILE, {HOSTILE: 1.0})], {HOSTILE: 0.0}, {HOSTILE: 1.0}, {})
    hostile = replace(
        explanation,
        items=[
            replace(
                item, title=HOSTILE, item_id=HOSTILE, sentence=HOSTILE, text=HOSTILE, words=words,
                history=[replace(met, title=HOSTILE, item_id=HOSTILE) for met in item.history],
            )
        ],
        read=[HOSTILE, "$x_{$ \\frac", "∑", "\x00"],
        notes=[HOSTILE],
    )  # fmt: skip
    page = _Page(render_page(hostile, {HOSTILE: HOSTILE}))
    assert page.tags == tame.tags
    assert "script" not in page.tags
    assert page.attributes == tame.attributes
    assert page.text.count(HOSTILE) >= 8
    assert len(page.addresses) == 2


def test_without_shares_and_words(explanation: Explanation) -> None:
    bare = [replace(item, shares=None, words=None, text="") for item in explanation.items]
    html = render_page(replace(explanation, items=bare, notes=["neither"]), {})
    assert "Shares of the score" not in html
    assert '<p class="notice">neither</p>' in html
