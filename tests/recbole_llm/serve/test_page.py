"""The page in a real browser: an item that is added, or hidden, changes the list."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.scoring import load_scorer, write_artifact
from recbole_llm.serve.app import create_app
from recbole_llm.serve.guards import ApiKeys
from recbole_llm.serve.service import Service
from recbole_llm.serve.settings import ServeSettings
from recbole_llm.serve.snapshot import Source
from tests.browser import CHROMIUM
from tests.data import CYCLE, random_artifact
from tests.recbole_llm.serve.live import listening

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium or google-chrome on PATH"),
]
KEY = "a-key-for-the-page"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    made = random_artifact(CYCLE)
    return write_artifact(replace(made, titles=[HOSTILE, *made.titles[1:]]), tmp_path)


@pytest.fixture
def address(artifact: Path) -> Iterator[str]:
    service = Service(Source(None, artifact), ServeSettings(), None)
    with listening(create_app(service, ApiKeys([KEY]))) as address:
        yield address


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        yield page
        browser.close()


def _names(page: Any, list_: str) -> list[str]:
    found: list[str] = page.locator(f"#{list_} .name").all_inner_texts()
    return found


def test_a_list_changes_with_the_history(page: Any, artifact: Path) -> None:
    page.wait_for_function("document.getElementById('fault').textContent.includes('X-API-Key')")
    page.get_by_label("Key").fill(KEY)
    page.get_by_role("button", name="Show").click()
    page.wait_for_selector("#list li")
    assert _names(page, "history") == []
    assert HOSTILE in _names(page, "list")

    page.get_by_label("Add an item").fill("of i3")
    page.get_by_role("button", name="Add Title of i3").click()
    page.wait_for_selector("#history li")
    assert _names(page, "history") == ["Title of i3"]
    titles = {item: f"Title of {item}" for item in CYCLE} | {"i0": HOSTILE}
    expected = load_scorer(artifact).top_k([["i3"]], 10).item_ids[0]
    assert _names(page, "list") == [titles[item] for item in expected]

    page.get_by_role("button", name=f"Why {titles[expected[0]]}").click()
    page.wait_for_selector("#why li")
    assert _names(page, "why") == ["Title of i3"]

    page.get_by_role("button", name=f"Hide {titles[expected[0]]}").click()
    page.wait_for_function(
        "first => document.querySelector('#list .name').textContent !== first",
        arg=titles[expected[0]],
    )
    assert titles[expected[0]] not in _names(page, "list")
    assert page.title() == "recbole_llm"
