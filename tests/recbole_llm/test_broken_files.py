"""What stands in a broken file is said in the error: what fuzzing found, once each."""

import json
import math
import sqlite3
import struct
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.fuzz.targets import TARGETS
from recbole_llm.config_files import flags_as_dict, load_yaml
from recbole_llm.errors import ArtifactError, ConfigError, DataError
from recbole_llm.item_text import read_text_columns
from recbole_llm.json_files import check_record, parse_json, read_json
from recbole_llm.query import connect, lookup
from recbole_llm.retention import check_retention
from recbole_llm.scoring import load_scorer, write_artifact
from recbole_llm.user_files import UserFile
from recbole_llm.warehouse import Warehouse, replace_json
from tests.data import MANIFEST, RUN, random_artifact

_YAML = {
    "[" * 1000: "nested too deeply",
    "2024-02-30": "no timestamp: day is out of range",
    "!!int x": "no int: invalid literal",
    "!!timestamp x": "no timestamp",
    "!!float ": "no float",
    "!!bool 3": "no bool",
    "1" * 5000: "no int",
    "0x" + "f" * 17: "an integer beyond 64 bits",
    "&a [*a]": "an alias within itself",
    "[&a [x, x], " + ", ".join(["*a"] * 21) + "]": "more than 20",
    '"\\0"': "NUL or half a surrogate pair",
    '"\\uD800"': "NUL or half a surrogate pair",
}


@pytest.mark.parametrize(("value", "fault"), _YAML.items(), ids=lambda text: text[:12])
def test_yaml_that_is_no_setting(tmp_path: Path, value: str, fault: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: {value}\n")
    with pytest.raises(ConfigError, match=fault):
        load_yaml(path)
    with pytest.raises(ConfigError, match=fault):
        flags_as_dict([f"--a={value}"])


def test_yaml_of_other_bytes_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"a.yaml is not UTF-8: .* write it as UTF-8"):
        load_yaml(path)
    path.write_text("no: 1\nb: 2\n")  # YAML 1.1 reads False
    with pytest.raises(ConfigError, match=r"keys must be words, got \[False\]; quote"):
        load_yaml(path)


def test_an_anchor_still_serves(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 1e-3\n")
    assert load_yaml(path) == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 0.001}}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"options": []}, "expected options as dict, got list"),
        ({"files": 3}, "expected files as dict, got int 3"),
        ({"files": {"model.safetensors": 1}}, "expected model.safetensors as str, got int 1"),
        ({"sequence": {"hidden_size": "16"}}, "expected hidden_size as int, got str '16'"),
        ({"sequence": {"hidden_size": True}}, "expected hidden_size as int, got bool True"),
        ({"sequence": {"n_layers": 10**9}}, "describes no network of the weights beside it"),
        ({"sequence": {"inner_size": 10**9}}, "describes no network of the weights beside it"),
        ({"sequence": {"n_heads": 3}}, "describes no network of the weights beside it"),
        ({"sequence": {"hidden_dropout_prob": 2}}, "describes no network of the weights beside it"),
        ({"sequence": {"score": "sum"}}, "describes no network of the weights beside it"),
    ],
)
def test_an_index_that_describes_nothing(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    path = write_artifact(random_artifact(["a", "b"]), tmp_path)
    index = json.loads((path / "artifact.json").read_text())
    for key, value in changes.items():
        known = index.get(key)
        index[key] = {**known, **value} if isinstance(value, dict) and known else value
    (path / "artifact.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match=fault):
        load_scorer(path)


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        (rb'["\ud83d\ude00", "\\ud800"]', True),
        (rb'["a\ud800"]', False),
        (rb'{"\uDfff": 1}', False),
        (b'["\xed\xa0\x80"]', False),
        ('["\\ud800"]'.encode("utf-16"), False),
        ('["é"]'.encode("utf-16"), True),
    ],
)
def test_halves_of_signs_are_no_text(text: bytes, is_whole: bool) -> None:
    if is_whole:
        assert parse_json(text) == json.loads(text)
        return
    with pytest.raises(ValueError, match="utf-8"):
        parse_json(text)


def test_records_hold_what_they_must(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="a.json is damaged, it is not JSON: it is nested too"):
        read_json(path)
    kinds = {"a": int, "b?": str, "c": dict | None}
    assert check_record({"a": 1, "c": None, "d": 2}, kinds, path)["d"] == 2
    for record, fault in (
        ([], r"expected a JSON object, got list \[\]; restore it"),
        ({"c": None}, "expected a as int, got nothing"),
        ({"a": True, "c": None}, "expected a as int, got bool True"),
        ({"a": 1, "b": None, "c": None}, "expected b as str, got NoneType None"),
        ({"a": 1}, r"expected c as dict \| None, got nothing"),
    ):
        with pytest.raises(ArtifactError, match=fault):
            check_record(record, kinds, path)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"run_id": 5}, "expected run_id as str, got int 5"),
        ({"ds": "monday"}, "has no day: a day is written YYYY-MM-DD"),
        ({"path": "a\0"}, r"has the path 'a\\x00', expected one below its root"),
        ({"path": "x" * 256}, "has the path 'xxx.*', expected one below its root"),
        ({"path": "x/" * 600}, "has the path 'x/x/.*', expected one below its root"),
        ({"before": [{}]}, "expected ds as str, got nothing"),
        ({"settings": {"user_keys": "k"}}, "expected user_keys as list, got str 'k'"),
    ],
)
def test_a_pointer_whose_entry_is_none(tmp_path: Path, changes: Any, fault: str) -> None:
    warehouse = Warehouse(tmp_path)
    days = {RUN["ds"]: {**RUN, "before": [], **changes}}
    replace_json(warehouse.published, {"format_version": 1, "days": days})
    with pytest.raises(ArtifactError, match=fault):
        warehouse.published_run(None)


def test_a_manifest_and_a_run_that_lack_something(tmp_path: Path) -> None:
    warehouse, day = Warehouse(tmp_path), RUN["ds"]
    replace_json(warehouse.features(day) / "manifest.json", {**MANIFEST, "base": {"ds": 1}})
    with pytest.raises(
        ArtifactError, match=r"base in .*manifest.json is damaged: expected ds as str"
    ):
        warehouse.features_manifests()
    replace_json(warehouse.runs(day) / "scored.json", {**RUN, "k": "3"})
    with pytest.raises(ArtifactError, match="expected k as int, got str '3'"):
        warehouse.scored_manifest(day)
    run = {key: value for key, value in RUN.items() if key != "features_path"}
    with pytest.raises(ArtifactError, match="expected features_path as str, got nothing"):
        warehouse.state_of(run)


def test_a_table_that_is_no_parquet(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    days = {RUN["ds"]: {**RUN, "before": []}}
    replace_json(warehouse.published, {"format_version": 1, "days": days})
    file = tmp_path / RUN["path"] / "0.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PAR1 cut short")
    with pytest.raises(ArtifactError, match="the files of recommendations cannot be read"):
        connect(warehouse)
    with pytest.raises(ArtifactError, match="0.parquet is no whole Parquet file"):
        lookup(warehouse, "u1")


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (b"", "cannot be read: No columns to parse"),
        (b"item_id:token\ttitle:token\ttitle:token_seq\na\tb\tc\n", "has two columns 'title'"),
        (b"item_id:token\ttitle:token\na\tb\na\tb\tc\td\n", "cannot be read: .*Expected 2 fields"),
    ],
)
def test_an_item_file_that_is_no_table(tmp_path: Path, head: bytes, fault: str) -> None:
    path = tmp_path / "a.item"
    path.write_bytes(head)
    with pytest.raises(DataError, match=fault):
        read_text_columns(path, "item_id", "\t", "utf-8")


@pytest.mark.parametrize(
    ("before", "after"), [(b"user_id", b"user"), (b"item_id:token", b"item_id:token_seq")]
)
def test_interactions_without_a_user_or_an_item(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    target = TARGETS[".inter"](tmp_path)
    with pytest.raises(DataError, match="small.inter has no column '(user|item)_id:token', it"):
        target.read(target.seeds[0].replace(before, after, 1))


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("eval_args", "5", "RecBole cannot read the settings: ValueError: eval_args"),
        ("metrics", "[x]", "RecBole cannot read the settings: NotImplementedError"),
        ("topk", "a", "RecBole cannot read the settings: TypeError"),
        ("text_cache", "5", "text_cache must be text, or ~ .str., got 5"),
        ("epochs", "2024-99-99", "is not valid YAML"),
    ],
)
def test_values_that_recbole_does_not_check(
    tmp_path: Path, key: str, value: str, fault: str
) -> None:
    target = TARGETS["model settings"](tmp_path)
    with pytest.raises(ConfigError, match=fault):
        target.read(target.seeds[0] + f"{key}: {value}\n".encode())


def test_days_that_no_calendar_has() -> None:
    kinds = dict.fromkeys(("raw", "quarantine", "tables", "metrics"), 0)
    with pytest.raises(ConfigError, match="retention.raw must be a number of days up to 100000"):
        check_retention({**kinds, "raw": 10**12})


def _without_vectors(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE vectors")
        database.execute(
            "CREATE VIEW vectors AS WITH RECURSIVE n(key) AS (SELECT 1 UNION ALL SELECT key FROM n)"
            " SELECT key, key AS vector FROM n"
        )


def _with_numbers(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE vectors SET vector = 'abc'")


def _with_broken_pages(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))


def _with_a_schema_of_other_bytes(path: Path) -> None:
    """SQLite's message cites the schema, which is no UTF-8."""
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE T\x97BLE"))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_with_a_schema_of_other_bytes, "is no cache of text vectors"),
        (_without_vectors, "its vectors are no table; name another file"),
        (_with_numbers, "is damaged: a vector is no list of float32. Delete it"),
        (_with_broken_pages, "is damaged: database disk image is malformed. Delete it"),
    ],
)
def test_a_spoilt_cache(tmp_path: Path, spoil: Callable[[Path], None], fault: str) -> None:
    target, path = TARGETS["text cache"](tmp_path), tmp_path / "cache.sqlite"
    spoil(path)
    with pytest.raises(ConfigError, match=fault):
        target.read(path.read_bytes())


def test_values_that_no_calendar_and_no_text_holds(tmp_path: Path) -> None:
    target = TARGETS["published table"](tmp_path)
    day = struct.pack("<i", (date(2024, 5, 2) - date(1970, 1, 1)).days)
    for valid, spoilt, fault in (
        (day, b"\xff\xff\xff\x0f", "date value out of range"),
        (b"model", b"mod\xfb\xfb", "'utf-8' codec can't decode"),
    ):
        seed = next(seed for seed in target.seeds if valid in seed)
        with pytest.raises(ArtifactError, match=fault):
            target.read(seed.replace(valid, spoilt))


def test_a_footer_that_contradicts_itself(tmp_path: Path) -> None:
    """pyarrow ends the process when it is asked for such a column's statistics."""
    path = tmp_path / "part-0.parquet"
    table = pa.table({"user_id": ["u1", "u2"], "rank": [1, 1]})
    pq.write_table(table, path)
    whole = path.read_bytes()
    assert UserFile(path, ["user_id", "rank"]).rows("u1") == [{"rank": 1}]
    flips = [
        flip
        for place in range(len(whole) - 600, len(whole) - 8)
        for flip in ((place, 1), (place, 4))
    ]
    n_refused = 0
    for place, bit in flips:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            UserFile(path, ["user_id", "rank"]).rows("u1")
        except ArtifactError:
            n_refused += 1
    assert 0 < n_refused < len(flips)


def _changed_tensors(valid: bytes, name: str, changes: dict[str, Any]) -> bytes:
    (size,) = struct.unpack("<Q", valid[:8])
    header = json.loads(valid[8 : 8 + size])
    (found,) = [each for each in header if each.endswith(name)]
    header[found] |= changes
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + valid[8 + size :]


@pytest.mark.parametrize(
    ("name", "tensor", "changes", "fault"),
    [
        ("explanation.safetensors", "0.mean", {"shape": [1, 8]}, "the part of 'tfidf' does not fit"),
        ("explanation.safetensors", "0.idf", {"dtype": "I64"}, "of other than real numbers"),
        ("explanation.safetensors", "0.idf", {"dtype": "F8_E4M3", "shape": [80]},
         "of other than real numbers"),
        ("explanation.safetensors", "0.idf", {"shape": [1] * 70 + [10]},
         "of more than 2 dimensions"),
        ("checkpoint", "__metadata__", {"counters": "["}, "cannot be read: Expecting value"),
        ("checkpoint", "__metadata__", {"counters": "{}"}, "expected epoch as int, got nothing"),
        ("checkpoint", "model.network.sequences.input_norm.weight", {"shape": [1, 8]},
         "the checkpoint is of another model"),
    ],
)  # fmt: skip
def test_tensors_of_something_else(
    tmp_path: Path, name: str, tensor: str, changes: dict[str, Any], fault: str
) -> None:
    target = TARGETS[name](tmp_path)
    target.read(target.seeds[0])
    with pytest.raises(ArtifactError, match=fault):
        target.read(_changed_tensors(target.seeds[0], tensor, changes))


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    target = TARGETS["explanation.safetensors"](tmp_path)
    valid = target.seeds[0]
    (size,) = struct.unpack("<Q", valid[:8])
    start = 8 + size + json.loads(valid[8 : 8 + size])["0.idf"]["data_offsets"][0]
    spoilt = valid[:start] + struct.pack("<d", math.nan) + valid[start + 8 :]
    with pytest.raises(ArtifactError, match=r"has \['0.idf'\] with no numbers or infinite ones"):
        target.read(spoilt)


def test_a_training_state_of_something_else_starts_cold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = TARGETS["training.safetensors"](tmp_path)
    for tensor, changes in (
        ("network.sequences.input_norm.weight", {"shape": [1, 8]}),
        ("__metadata__", {"items": "[" * 100_000}),
        ("__metadata__", {"items": '["a"]'}),
    ):
        caplog.clear()
        target.read(_changed_tensors(target.seeds[0], tensor, changes))
        assert "the training starts cold" in caplog.text
