"""``recbole-llm explain`` on a small published night, and without one."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from recbole_llm.cli import main
from recbole_llm.query import lookup
from recbole_llm.warehouse import Warehouse
from tests.recbole_llm.explain.conftest import DAY


def _explain(warehouse: Warehouse, *more: str) -> int:
    return main(["explain", "--warehouse", str(warehouse.root), *more])


def test_first_ranks_of_a_user(night: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    assert _explain(night, "--user", "u1", "--k", "2") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"user u1, day {DAY}, run r1, model ")
    assert "i4  Film i4 of the cycle: rank 1, reason model, score " in out
    assert "  Because of Film i3 of the cycle" in out
    assert "both are of category Round" in out or "all three are of category Round" in out
    assert out.count("history (score lost without it") == 2


def test_an_item_as_json(night: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    assert _explain(night, "--user", "u2", "--day", DAY, "--item", "i0", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["user"], found["day"]) == ("u2", DAY)
    # u2 met an item that the model does not know, then i5 to i11; the last five are read.
    assert found["notes"] == ["1 of the history's items are not known to the model"]
    assert found["read"] == [f"Film i{n} of the cycle" for n in (7, 8, 9, 10, 11)]
    (item,) = found["items"]
    assert (item["item_id"], item["rank"], item["reason"]) == ("i0", 1, "model")
    assert item["history"][0]["item_id"] == "i11"
    assert item["shares"]["completeness_error"] < 0.05
    assert [word["text"] for word in item["words"]["words"]] == ["Film", "i0", "of", "the", "cycle"]


def test_an_item_that_is_not_in_the_list(
    night: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _explain(night, "--user", "u1", "--item", "i9", "--item", "cold") == 0
    out = capsys.readouterr().out
    assert "i9  Film i9 of the cycle: score " in out
    assert "cold  A film nobody has met: score " in out


def test_a_row_that_the_model_did_not_rank(
    night: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _explain(night, "--user", "u2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["rank"] for item in found["items"]] == [1, 2]
    assert len(found["notes"]) == 1
    last = lookup(night, "u2", DAY).recommendations[2]
    assert _explain(night, "--user", "u2", "--item", last["item_id"]) == 0
    out = capsys.readouterr().out
    assert f"note: the table's score of {last['item_id']} is 0.0100, the model's " in out
    assert "rank 3, reason popular, score " in out


def test_a_page(night: Warehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "pages" / "u1.html"
    assert _explain(night, "--user", "u1", "--output", str(page)) == 0
    assert f"page: {page}" in capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    assert "user <b>u1</b>" in html
    assert html.count("data:image/png;base64,") == 2


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--user", "nobody"], 4, f"user 'nobody' is not in the table of {DAY}"),
        (["--user", "u1", "--day", "2024-06-01"], 4, "no table for 2024-06-01"),
        (["--user", "u1", "--item", "i99"], 4, "does not know item 'i99': it is not among its 13"),
        (["--user", "u1", "--artifact", "nowhere"], 5, "nowhere is not that; name its folder"),
        (["--history", "i1,i2"], 2, "--history needs --artifact"),
    ],
)
def test_what_is_not_there(
    night: Warehouse, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    assert _explain(night, *argv) == code
    assert message in capsys.readouterr().err


def test_a_state_that_was_deleted(night: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(night.root / night.published_run(DAY)["features_path"] / "sequences")
    assert _explain(night, "--user", "u1") == 4
    assert "its state was deleted after keep_days" in capsys.readouterr().err


def test_without_a_warehouse(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["explain", "--artifact", str(trained), "--history", "i1,i2,i3"]
    assert main([*command, "--k", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"model {trained.name}\n\ni4  Film i4 of the cycle: score ")
    assert main([*command, "--item", "i9"]) == 0
    assert "i9  Film i9 of the cycle: score " in capsys.readouterr().out
    assert main(["explain", "--artifact", str(trained), "--history", "x", "--item", "i9"]) == 4
    assert "knows none of the 1 items of the history" in capsys.readouterr().err


def test_without_captum(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    assert main(["explain", "--artifact", str(trained), "--history", "i1"]) == 2
    assert "pip install 'recbole-llm[explain]'" in capsys.readouterr().err
