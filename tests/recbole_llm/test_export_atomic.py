from pathlib import Path

import duckdb
import pytest

from recbole_llm.errors import DataError
from recbole_llm.export_atomic import export_atomic


def _features(folder: Path, user: str = "u", more: str = "") -> Path:
    for name in ("sequences", "items"):
        (folder / name).mkdir(parents=True)
    with duckdb.connect() as database:
        database.execute(
            f"COPY (SELECT * FROM (VALUES ('{user}', ['b', 'a', 'c', 'x'], [7, 7, 9, 9],"
            " ['b', 'y'], ['a', 'x']), ('empty', [], [], [], []))"
            " AS t(user_id, item_ids, timestamps, disliked_ids, unread_ids))"
            f" TO '{folder}/sequences/0.parquet'"
        )
        database.execute(
            f"COPY (SELECT *{more} FROM (VALUES ('b', ' Heat\t2 \"x', 'Crime', ''),"
            " ('a', 'Émile', '', '')) AS t(item_id, title, category, description))"
            f" TO '{folder}/items/0.parquet'"
        )
    return folder


def test_files_keep_order_and_text(tmp_path: Path) -> None:
    folder = export_atomic(_features(tmp_path / "f"), "night", tmp_path)
    assert (folder / "night.inter").read_text() == (  # a and x are not to be read
        "user_id:token\titem_id:token\ttimestamp:float\nu\tb\t7\nu\tc\t9\n"
    )
    assert (folder / "night.user").read_text() == (
        "user_id:token\tdisliked_ids:token_seq\nu\tb y\n"
    )
    assert (folder / "night.item").read_text(encoding="utf-8") == (
        "item_id:token\ttitle:token_seq\tcategory:token_seq\tdescription:token_seq\n"
        'a\tÉmile\t\t\nb\tHeat 2 "x\tCrime\t\n'
    )


def test_an_id_that_recbole_would_misread(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ids with a tab, line break or double quote .*'u\"1'"):
        export_atomic(_features(tmp_path / "f", user='u"1'), "night", tmp_path)


def test_columns_that_are_no_text_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    more = ", 'my  pictures/' || item_id AS image, NULL::VARCHAR AS audio"
    features = _features(tmp_path / "f", more=more)
    folder = export_atomic(features, "night", tmp_path)
    assert "pictures" not in (folder / "night.item").read_text(encoding="utf-8")
    folder = export_atomic(features, "night", tmp_path, media=["image", "audio"])
    assert (folder / "night.item").read_text(encoding="utf-8") == (
        "item_id:token\ttitle:token_seq\tcategory:token_seq\tdescription:token_seq\timage:token"
        "\taudio:token\na\tÉmile\t\t\tmy  pictures/a\t\n"
        'b\tHeat 2 "x\tCrime\t\tmy  pictures/b\t\n'
    )
    with pytest.raises(DataError, match=r"have no column 'photo', found \['item_id', 'title'"):
        export_atomic(features, "night", tmp_path, media=["photo"])
