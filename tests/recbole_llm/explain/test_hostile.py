"""Whatever an item calls itself, what the commands print and write shows it and does not obey it."""

import json
import re
from pathlib import Path

import pytest

from recbole_llm.cli import main
from recbole_llm.warehouse import Warehouse
from tests.recbole_llm.explain.conftest import publish_night, train_cycle

TITLES = {
    "i0": "\x1b]0;mine\x07\x1b[2J\x9b31mred",
    "i1": "'); DROP TABLE recommendations; --",
    "i2": '=HYPERLINK("http://example.org")',
    "i3": "</td><script>alert(1)</script>",
    "i4": "exe.\u202egnp \u2028 next",
    "i5": "{{ 7 * 7 }} ${x} %s \\frac $",
    "i6": "+1 \x08\x08 hidden",
}
"""Of a terminal, a database, a spreadsheet, a browser, a reader's eye, and templates."""
_OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A night whose histories and recommendations are of items with such titles."""
    folder = tmp_path_factory.mktemp("hostile")
    artifact = train_cycle(folder, "tfidf", TITLES)
    return publish_night(folder / "warehouse", artifact)


def _told(warehouse: Warehouse, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    command, *more = words
    assert main([command, "--warehouse", str(warehouse.root), *more]) == 0
    out = capsys.readouterr().out
    assert not _OBEYED.search(out)
    return out


def test_what_is_printed(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    out = _told(warehouse, capsys, "lookup", "--user", "u1", "--k", "3")
    assert r"\u001b]0;mine\u0007\u001b[2J\u009b31mred" in out
    tame = ["lookup", "--user", "u2", "--k", "3"]
    assert len(out.splitlines()) == 2 + 5 + 3 + 1  # a title adds no line
    assert len(_told(warehouse, capsys, *tame).splitlines()) == 2 + 5 + 3 + 1
    out = _told(warehouse, capsys, "explain", "--user", "u1", "--item", "i4", "--item", "i0")
    assert r"exe.\u202egnp" in out
    assert "DROP TABLE" in out  # shown
    sql = "SELECT {} AS a, 'b' AS b".format(" || ".join(f"chr({n})" for n in (27, 155, 8238, 10)))
    assert "b" in _told(warehouse, capsys, "sql", sql)


def test_json_keeps_the_title(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    out = _told(warehouse, capsys, "lookup", "--user", "u1", "--k", "3", "--json")
    found = json.loads(out)
    shown = {row["item_id"]: row["title"] for row in found["history"] + found["recommendations"]}
    assert shown.keys() & TITLES.keys()
    for item in shown.keys() & TITLES.keys():
        assert shown[item] == TITLES[item]
    out = _told(warehouse, capsys, "explain", "--user", "u1", "--item", "i4", "--json")
    assert json.loads(out)["items"][0]["title"] == TITLES["i4"]


def test_the_page(warehouse: Warehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    items = [word for item in TITLES for word in ("--item", item)]
    _told(warehouse, capsys, "explain", "--user", "u1", *items, "--output", str(page))
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "{{ 7 * 7 }}" in html


def test_a_sentence_never_starts_as_a_formula(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [word for item in TITLES for word in ("--item", item)]
    out = _told(warehouse, capsys, "explain", "--user", "u1", *items, "--json")
    sentences = [item["sentence"] for item in json.loads(out)["items"]]
    assert len(sentences) == len(TITLES)
    assert all(sentence[0].isalpha() for sentence in sentences)
