"""Raw events that call their users otherwise, without a user."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llm.errors import ConfigError, DataError
from recbole_llm.forget import forget, user_column
from recbole_llm.warehouse import Warehouse


def test_a_feed_with_its_own_names(tmp_path: Path) -> None:
    """The forgotten user's name is an item of another user's, too."""
    rows = [("42", "a"), ("7", "42"), ("7", "b"), (" 42 ", "c")]
    folder = Warehouse(tmp_path).raw_events / "ds=2024-05-01"
    folder.mkdir(parents=True)
    lines = [json.dumps({"reader": reader, "article": article}) for reader, article in rows]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [("article", "reader"), *(row[::-1] for row in rows)]
    )
    (folder / "b.csv").write_text(text.getvalue())
    readers, articles = zip(*rows, strict=True)
    table = pa.table({"reader": readers, "article": articles})
    pq.write_table(table, folder / "c.parquet")
    with pytest.raises(
        DataError, match=r"c.parquet has the columns \['reader', 'article'\] and none"
    ):
        forget(Warehouse(tmp_path), "42", [])
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "b.csv").write_text(text.getvalue())
    report = forget(
        Warehouse(tmp_path), "42", [], user_column({"event_fields": {"user_id": "reader"}})
    )
    assert [*report.rows.values()] == [2, 2, 2]
    assert (folder / "a.jsonl").read_text() == "\n".join(lines[1:3]) + "\n"
    assert (folder / "b.csv").read_text() == "article,reader\n42,7\nb,7\n"
    assert pq.read_table(folder / "c.parquet").to_pylist() == table.to_pylist()[1:3]


def test_which_column_holds_the_users() -> None:
    assert user_column({}) == user_column({"event_fields": {"item_id": "sku"}}) == "user_id"
    for fields in ([], {"user_id": 3}):
        with pytest.raises(ConfigError, match="event_fields must hold names of columns, got"):
            user_column({"event_fields": fields})
