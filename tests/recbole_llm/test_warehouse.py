import json
from multiprocessing import get_context
from pathlib import Path

import pytest

from recbole_llm.errors import ArtifactError, ConfigError, NotFoundError
from recbole_llm.removal import prune_attempts
from recbole_llm.warehouse import Warehouse, check_day, replace_json
from tests.data import MANIFEST, RUN


@pytest.mark.parametrize("text", ["2024-5-1", "2024-02-30", "today", "", "20240501", "2024-05-01x"])
def test_a_day_is_a_date(text: str) -> None:
    assert check_day("2024-05-01") == "2024-05-01"
    with pytest.raises(ConfigError, match="YYYY-MM-DD"):
        check_day(text)


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pointer.json"
    replace_json(path, {"a": 1})
    with pytest.raises(TypeError):
        replace_json(path, {"a": object()})  # fails half-way through writing
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["pointer.json"]


def test_prune_keeps_what_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    assert prune_attempts(tmp_path, {"b"}) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "manifest.json"]


def test_what_is_absent_is_told_with_what_to_do(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    with pytest.raises(NotFoundError, match="no features for 2024-05-01: run prepare_features"):
        warehouse.features_manifest("2024-05-01")
    with pytest.raises(NotFoundError, match="no champion in"):
        warehouse.champion_artifact()
    with pytest.raises(NotFoundError, match="nothing is published"):
        warehouse.published_run(None)


def test_the_latest_day_is_the_newest_not_the_last_written(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    days = {
        day: {"ds": day, "run_id": path, "path": path, "before": []}
        for day, path in (("2024-05-02", "b"), ("2024-05-01", "a"))
    }
    replace_json(warehouse.published, {"format_version": 1, "days": days})
    assert warehouse.published_run(None)["path"] == "b"
    assert warehouse.published_run("2024-05-01")["path"] == "a"
    with pytest.raises(NotFoundError, match="2 days are published, 2024-05-01 to 2024-05-02"):
        warehouse.published_run("2024-06-01")


def test_a_pointer_of_a_newer_version_is_not_guessed_at(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    replace_json(warehouse.published, {"format_version": 2, "tables": {}})
    with pytest.raises(ArtifactError, match="format 2, this version reads 1; install"):
        warehouse.published_run(None)


def test_what_a_killed_writer_left_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "pointer.json"
    (tmp_path / ".pointer.json.staging").write_text('{"half": "a lin' + "x" * 1000)
    replace_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["pointer.json"]


def _replace_often(path: Path, name: str) -> None:
    for number in range(200):
        replace_json(path, {"who": name, "rows": [number] * 100})


def test_two_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "pointer.json"
    replace_json(path, {"who": "", "rows": [0] * 100})
    context = get_context("spawn")
    writers = [context.Process(target=_replace_often, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        content = json.loads(path.read_text())
        assert len(content["rows"]) == 100
        assert len(set(content["rows"])) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["pointer.json"]


def test_a_damaged_pointer_is_told(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    for text in ("", '{"days": {', "[]", '{"days": {}}'):
        warehouse.published.write_text(text)
        with pytest.raises(ArtifactError, match="published.json is damaged.* restore it"):
            warehouse.published_days()


@pytest.mark.parametrize("path", ["../other", "/etc", "runs/../../x"])
def test_a_pointer_that_leaves_the_warehouse_is_not_followed(tmp_path: Path, path: str) -> None:
    warehouse = Warehouse(tmp_path)
    fine = {**MANIFEST, **RUN}
    for run in (
        {**fine, "path": path},
        {**fine, "features_path": path},
        {**fine, "before": [{**fine, "path": path}]},
    ):
        replace_json(warehouse.published, {"format_version": 1, "days": {"2024-05-01": run}})
        with pytest.raises(ArtifactError, match="below its root folder; restore the file"):
            warehouse.published_run(None)
    replace_json(warehouse.champion, {"model_version": path})
    with pytest.raises(ArtifactError, match=r"champion.json has the path"):
        warehouse.champion_artifact()
    for manifest in (
        warehouse.features("2024-05-01") / "manifest.json",
        warehouse.runs("2024-05-01") / "scored.json",
    ):
        replace_json(manifest, {**fine, "path": path})
    for read in (
        lambda: warehouse.features_manifest("2024-05-01"),
        warehouse.features_manifests,
        lambda: warehouse.scored_manifest("2024-05-01"),
    ):
        with pytest.raises(ArtifactError, match="below its root folder"):
            read()


def test_a_manifest_from_before_there_were_pseudonyms_is_read(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    path = warehouse.features("2024-05-01") / "manifest.json"
    replace_json(path, {key: MANIFEST[key] for key in MANIFEST if key != "user_keys"})
    assert warehouse.features_manifest("2024-05-01")["user_keys"] == []
