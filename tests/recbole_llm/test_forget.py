"""Raw events that call their users otherwise, without a user."""

import csv
import io
import json
import re
import shutil
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_llm.blocks import block, lift, read_blocks
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.forget import forget, user_column
from recbole_llm.pseudonyms import KEYS_FILE, add_user_key
from recbole_llm.published import publish_run, roll_back
from recbole_llm.warehouse import Warehouse, replace_json
from tests.data import MANIFEST, RUN


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


def _write(root: Path, name: str, content: str) -> Path:
    path = Warehouse(root).raw_events / "ds=2024-05-01" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def test_records_end_where_lines_end_and_csv_may_begin_with_a_mark(tmp_path: Path) -> None:
    kept = '{"user_id": "7", "item_id": "42", "query": "a\u2028b\x85c"}\n'
    lines = _write(tmp_path, "a.jsonl", kept + '{"user_id": "42", "item_id": "5"}\n')
    head = "\ufeffuser_id,item_id\r\n"
    table = _write(tmp_path, "b.csv", head + "9,4\x0b42\r\n42,5\r\n")
    assert [*forget(Warehouse(tmp_path), "42", []).rows.values()] == [1, 1]
    assert lines.read_bytes().decode() == kept
    assert table.read_bytes().decode() == head + "9,4\x0b42\r\n"


def test_a_whole_number_that_pandas_made_a_float_is_the_user(tmp_path: Path) -> None:
    ids = pa.array([12_345_678_901.0, 12_345_678_902.0, None, 0.5])
    path = _write(tmp_path, "a.parquet", "")
    pq.write_table(pa.table({"user_id": ids}), path)
    assert [*forget(Warehouse(tmp_path), "12345678901", []).rows.values()] == [1]
    assert pq.read_table(path)["user_id"].to_pylist() == [12_345_678_902.0, None, 0.5]
    assert [*forget(Warehouse(tmp_path), "0.5", []).rows.values()] == [1]


def test_a_name_may_be_escaped_in_any_way_of_json(tmp_path: Path) -> None:
    spelt = ["zo\\u00EB/1", "zo\\u00eb\\/1", "zo\u00eb/1"]
    lines = "".join(f'{{"user_id": "{each}", "item_id": "5"}}\n' for each in [*spelt, "zo\\/1"])
    path = _write(tmp_path, "a.jsonl", lines)
    assert [*forget(Warehouse(tmp_path), "zo\u00eb/1", []).rows.values()] == [3]
    assert path.read_text() == '{"user_id": "zo\\/1", "item_id": "5"}\n'


def test_an_item_or_a_count_that_is_called_as_the_user_is_not_left(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl", '{"user_id": "7", "item_id": "42"}\n')
    for name in ("artifacts/m/items.json", "raw/items/items.jsonl", "cache/text_vectors.sqlite"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('["42"]')
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "2024-05-01.json").write_text('{"n_users": 42}')
    (tmp_path / "metrics" / "2024-05-02.json").write_text('{"top_items": [{"item_id": "42"}]}')
    for line in ("2024-05-01 02:42:07 INFO 42 rows", '{"event": "user \\"42\\" is late"}'):
        (tmp_path / "airflow" / "logs").mkdir(parents=True, exist_ok=True)
        assert forget(Warehouse(tmp_path), "42", []).left == []
        (tmp_path / "airflow" / "logs" / "a.log").write_text(line)
    assert forget(Warehouse(tmp_path), "42", []).left == ["airflow/logs/a.log"]
    shutil.rmtree(tmp_path / "airflow")
    unfinished = _write(tmp_path, "_temporary/part-0.jsonl", '{"user_id": 42}\n')
    (tmp_path / "copy.json").write_text('{"of": "42"}')
    left = [str(path.relative_to(tmp_path)) for path in (tmp_path / "copy.json", unfinished)]
    assert forget(Warehouse(tmp_path), "42", []).left == left


def test_other_keys_than_the_jobs_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever forgets under another account has other keys, or none."""
    of_jobs, mine = tmp_path / "jobs", tmp_path / "mine"
    names = add_user_key(of_jobs).names
    warehouse = Warehouse(tmp_path / "w")
    raw = _write(warehouse.root, "a.jsonl", '{"user_id": "42"}\n')
    state = {**MANIFEST, "user_keys": names}
    replace_json(warehouse.features(state["ds"]) / "manifest.json", state)
    table = warehouse.root / state["path"] / "sequences"
    table.mkdir(parents=True)
    monkeypatch.setenv(KEYS_FILE, str(mine))
    for here in ([], add_user_key(mine).names):
        if not here:
            mine.rename(tmp_path / "away")
        else:
            (tmp_path / "away").rename(mine)
        message = rf"by the keys \['{names[0]}'\], those here are {re.escape(str(here))}"
        with pytest.raises(ConfigError, match=message):
            forget(warehouse, "42", [])
    assert raw.read_text()
    assert not warehouse.forgotten.exists()
    table.rmdir()  # past its days: nobody is in it, but somebody in the table
    publish_run(warehouse, {**RUN, "settings": {"user_keys": names}}, keep_runs=1)
    with pytest.raises(
        ConfigError, match=f"in the table of {RUN['ds']} are pseudonyms by the keys"
    ):
        forget(warehouse, "42", [])
    warehouse.published.unlink()
    forget(warehouse, "42", [])
    assert not raw.read_text()


def _block(root: Path, name: str) -> None:
    block(Warehouse(root), [name])


def test_two_blocks_at_once_are_two(tmp_path: Path) -> None:
    context = get_context("spawn")
    processes = [context.Process(target=_block, args=(tmp_path, f"u{n}")) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    blocks = read_blocks(Warehouse(tmp_path))
    assert blocks.marks.keys() == {blocks.mark(f"u{n}") for n in range(4)}


@pytest.mark.parametrize("is_lifted", [True, False])
def test_nights_between_build_on_what_is_there(tmp_path: Path, is_lifted: bool) -> None:
    """However often somebody is forgotten, and wherever that was stopped."""
    warehouse = Warehouse(tmp_path)

    def prepare(day: str, base: str | None) -> None:
        below = base and {
            "ds": base,
            "fingerprint": warehouse.features_manifest(base)["fingerprint"],
        }
        path = warehouse.features(day) / "manifest.json"
        replace_json(path, {**MANIFEST, "ds": day, "fingerprint": day, "base": below})

    def are_sound() -> list[bool]:
        manifests = warehouse.features_manifests()
        return [
            manifests[m["base"]["ds"]]["fingerprint"] == m["base"]["fingerprint"]
            for m in manifests.values() if m["base"]
        ]  # fmt: skip

    days = ["2024-05-01", "2024-05-02", "2024-05-03", "2024-05-04"]
    for day, base in zip(days[:3], [None, *days], strict=False):
        prepare(day, base)
    path = warehouse.features(days[1]) / "manifest.json"
    untouched = path.read_text()
    forget(warehouse, "42", [])
    path.write_text(untouched)  # as a forget that was stopped leaves the second state
    assert are_sound() == [False, False]
    if is_lifted:
        assert lift(warehouse, ["42"])
    forget(warehouse, "42", [])
    assert are_sound() == [True, True]
    prepare(days[3], days[2])
    forget(warehouse, "42", [])
    assert are_sound() == [True] * 3


def test_the_tables_that_a_day_had_before_are_counted_anew(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for name in "ab":
        folder = warehouse.runs(RUN["ds"]) / f"run_id={name}" / name
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": ["42", "7", "7"]}), folder / "0.parquet")
        path = str(folder.relative_to(tmp_path))
        publish_run(warehouse, {**RUN, "run_id": name, "path": path, "n_rows": 3}, keep_runs=1)
    forget(warehouse, "42", [])
    assert warehouse.published_run(None)["n_rows"] == 2
    now = roll_back(warehouse, RUN["ds"])
    assert now is not None
    assert (now["run_id"], now["n_rows"]) == ("a", 2)
