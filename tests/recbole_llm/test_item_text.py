from pathlib import Path

import pandas as pd
import pytest

from recbole_llm.errors import ConfigError, DataError
from recbole_llm.item_text import check_texts, read_text_columns, render_texts


def _items(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_reads_quotes_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "x.item"
    path.write_text(
        "item_id:token\ttitle:token_seq\tprice:float\n"
        '1\t"Unbalanced quote\t9.5\n2\t6" nails\t1\n2\tagain\t1\n3\t\t\n'
    )
    table = read_text_columns(path, "item_id", "\t", "utf-8")
    assert table["title"].to_dict() == {"1": '"Unbalanced quote', "2": '6" nails', "3": ""}
    assert list(table.columns) == ["title"]


def test_rows_of_more_fields_than_the_head_are_told(tmp_path: Path) -> None:
    path, head = tmp_path / "x.item", "item_id:token\ttitle:token_seq\n"
    for rows in ("1\tA\tB\n2\tC\tD\n", "1\tA\n2\tC\tD\n"):
        path.write_text(head + rows)
        with pytest.raises(
            DataError, match=r"x.item cannot be read: .*; its head names the columns"
        ):
            read_text_columns(path, "item_id", "\t", "utf-8")
    path.write_text(head + "1\tA\t\n2\tC\t\n")  # a tab at the end of each row is no field
    assert read_text_columns(path, "item_id", "\t", "utf-8")["title"].to_list() == ["A", "C"]


def test_a_comma_stands_in_a_text_between_quotes(tmp_path: Path) -> None:
    path = tmp_path / "x.item"
    path.write_text('id:token,title:token_seq\n1,"Chair, the"\n2,"6"" nails, and more"\n')
    table = read_text_columns(path, "id", ",", "utf-8")
    assert table["title"].to_dict() == {"1": "Chair, the", "2": '6" nails, and more'}
    path.write_text('id:token|title:token_seq\n1|"Heroes\n2|a\n3|Low"\n')
    table = read_text_columns(path, "id", "|", "utf-8")
    assert table["title"].to_dict() == {"1": '"Heroes', "2": "a", "3": 'Low"'}


def test_a_column_without_a_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.item").write_text("item_id:token\ttitle\n1\tA\n")
    with pytest.raises(DataError, match="column 'title' in .* has no type"):
        read_text_columns(tmp_path / "x.item", "item_id", "\t", "utf-8")


def test_no_item_column(tmp_path: Path) -> None:
    (tmp_path / "x.item").write_text("id:token\ttitle:token_seq\n1\tA\n")
    with pytest.raises(DataError, match=r"no column 'item_id:token', found \['id', 'title'\]"):
        read_text_columns(tmp_path / "x.item", "item_id", "\t", "utf-8")


def test_default_joins_all_text_fields() -> None:
    items = _items(title=["Toy Story ", "", "Heat"], genres=["Comedy", " ", ""])
    assert render_texts(items, None) == ["Toy Story. Comedy", "", "Heat"]


def test_template() -> None:
    items = _items(title=["Toy Story", ""], year=["1995", ""])
    assert render_texts(items, "{title} ({year})") == ["Toy Story (1995)", ""]


@pytest.mark.parametrize(
    "template",
    ["{name}", "no field", "{title", "{title} {}", "{title:d}", "{title:{title}}", "{title!x}"],
)
def test_bad_template(template: str) -> None:
    with pytest.raises(ConfigError, match="item_text"):
        render_texts(_items(title=["A"]), template)


def test_numbers_are_not_text() -> None:
    with pytest.raises(DataError, match="no item text: the fields .* hold no letter in 2 items"):
        check_texts(_items(category=["12", "7"]), None)
    assert render_texts(_items(title=["1917"]), None) == ["1917"]  # one that is new, beside others
