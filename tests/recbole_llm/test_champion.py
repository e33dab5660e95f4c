"""From features to a champion, on the cycle, and challengers that pass or do not."""

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from recbole_llm.champion import _first_day, train_champion
from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.model import LLMSeqRec
from recbole_llm.scoring import load_scorer
from recbole_llm.warehouse import Warehouse, replace_json
from tests.data import CYCLE, MANIFEST, walk
from tests.kill import Killed, killed_after

DAY, NEXT_DAY = "2024-05-20", "2024-05-22"
_END = 1_716_249_600  # of DAY, 2024-05-21T00:00:00Z
_RULES = (
    "promotion: {days: 2, margin: 0.05, confidence: 0.95, min_users: 30, max_users: 100,"
    " max_events: 5, keep_refused: 1, keep_superseded: 1}\n"
)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Features of two days: on each day of their lives users do a step on the cycle, up to today."""
    warehouse = Warehouse(tmp_path / "w")
    for day, more in ((DAY, 0), (NEXT_DAY, 2)):
        attempt = warehouse.features(day) / "a"
        for name in ("sequences", "items"):
            (attempt / name).mkdir(parents=True)
        sequences = []
        for n in range(36):
            length = 8 + n % 7 + more
            seconds = [_END + 86_400 * (step - 8 - n % 7) + 60 for step in range(length)]
            sequences.append((f"u{n}", walk(n, length), seconds, [], []))
        new = [] if day == DAY else ["new"]
        items = [(item, f"Film {item}", "", "", True) for item in [*CYCLE, *new]]
        histories = (
            "user_id text, item_ids text[], timestamps bigint[], disliked_ids text[], "
            "unread_ids text[]"
        )
        columns = "item_id text, title text, category text, description text, available boolean"
        with duckdb.connect() as database:
            for name, kinds, rows in (
                ("sequences", histories, sequences),
                ("items", columns, items),
            ):
                database.execute(f"CREATE TABLE {name} ({kinds})")
                marks = ", ".join("?" * len(rows[0]))
                database.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
                database.execute(f"COPY {name} TO '{attempt / name}/0.parquet'")
        path = str(attempt.relative_to(warehouse.root))
        replace_json(
            warehouse.features(day) / "manifest.json", {**MANIFEST, "ds": day, "path": path}
        )
    return warehouse


def _config(
    folder: Path, epochs: int, model: str = "LLMSeqRec", seed: int = 1, days: int = 0
) -> Path:
    path = folder / "night.yaml"
    path.write_text(
        f"training: {{model: {model}, item_repr: id, epochs: {epochs}, hidden_size: 16, n_layers: 1,"
        f" seed: {seed}, learning_rate: 0.02, MAX_ITEM_LIST_LENGTH: 5, train_batch_size: 16}}\n"
        f"continuation: {{days: {days}, epochs: 2, eval_step: 0}}\nexclude_seen: false\n{_RULES}"
    )
    return path


def _copy(warehouse: Warehouse) -> Path:
    return Path(shutil.copytree(warehouse.root, warehouse.root.with_name("copy")))


def _decision(warehouse: Warehouse, day: str, verdict: str) -> dict[str, object]:
    found = [json.loads(path.read_text()) for path in warehouse.decisions.glob(f"{day}-*.json")]
    (decision,) = [each for each in found if each["verdict"] == verdict]
    return dict(decision)


@pytest.mark.slow
def test_a_champion_and_its_challengers(warehouse: Warehouse, tmp_path: Path) -> None:
    first = train_champion(warehouse, _config(tmp_path, 15), DAY, if_none=True)
    scorer = load_scorer(warehouse.champion_artifact())
    assert scorer.top_k([["i3", "i4", "i5"]], 1).item_ids == [["i6"]]
    assert scorer.artifact.metadata["data_cut"] == DAY
    assert json.loads(warehouse.champion.read_text())["model_version"] == first
    assert _decision(warehouse, DAY, "first")["cold_because"] == "no champion"
    assert train_champion(warehouse, _config(tmp_path, 15), DAY, if_none=True) == first

    # A training that went wrong does not take over; of two, the newer one is kept to be looked at.
    refused = []
    for seed in (1, 2):
        config = _config(tmp_path, 0, seed=seed)
        assert train_champion(warehouse, config, NEXT_DAY, if_none=False, cold=True) == first
        (note,) = warehouse.artifacts.glob("*/refused.json")
        refused.append(json.loads(note.read_text()))
    assert refused[0]["model_version"] != refused[1]["model_version"]
    assert refused[1]["model_version"] == note.parent.name
    assert refused[1]["cold_because"] == "asked for"
    assert refused[1]["n_users"] == 36
    assert refused[1]["n_events"] == 72  # the champion was not trained on the two days since DAY
    assert refused[1]["data_cut"] == DAY
    assert refused[1]["champion_ndcg"] > 0.9 > refused[1]["challenger_ndcg"]
    assert refused[1]["lower"] < -0.05 * refused[1]["champion_ndcg"]
    assert refused[1]["reason"].endswith("that the margin allows")
    assert json.loads(warehouse.champion.read_text())["model_version"] == first

    # One that starts from the champion is as good at once, and knows what is new.
    second = train_champion(warehouse, _config(tmp_path, 1), NEXT_DAY, if_none=False)
    decision = _decision(warehouse, NEXT_DAY, "promoted")
    assert second == decision["model_version"] != first
    assert (decision["warm_from"], decision["champion_before"]) == (first, first)
    assert (decision["n_known_items"], decision["n_new_items"]) == (12, 1)
    assert json.loads(warehouse.champion.read_text())["data_cut"] == DAY
    assert "new" in load_scorer(warehouse.champion_artifact()).artifact.item_ids
    assert (warehouse.artifacts / first).is_dir()


@pytest.mark.slow
def test_a_challenger_of_the_newest_days_alone(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion's data end with DAY, and so do the challenger's: three days are learnt again."""
    first = train_champion(warehouse, _config(tmp_path, 15), DAY, if_none=True)
    learnt: dict[str, float | None] = {}
    build = LLMSeqRecDataset.build

    def kept(dataset: LLMSeqRecDataset) -> Any:
        parts = build(dataset)
        learnt.update(since=dataset.train_since, rows=len(parts[0].inter_feat))
        return parts

    monkeypatch.setattr(LLMSeqRecDataset, "build", kept)
    second = train_champion(warehouse, _config(tmp_path, 15, days=3), NEXT_DAY, if_none=False)
    decision = _decision(warehouse, NEXT_DAY, "promoted")
    assert second == decision["model_version"]
    assert (decision["warm_from"], decision["epochs"], decision["data_cut"]) == (first, 2, DAY)
    assert decision["train_since"] == "2024-05-18"
    # One window a user that holds the three days' events, and three for four of older ones.
    assert learnt == {"since": _END - 3 * 86_400, "rows": 36 + 27}

    train_champion(warehouse, _config(tmp_path, 15, days=3), NEXT_DAY, if_none=False, cold=True)
    assert learnt["since"] is None


def test_a_killed_training_goes_on(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, 4)
    whole = train_champion(Warehouse(_copy(warehouse)), config, DAY, if_none=True)
    with killed_after(1):
        train_champion(warehouse, config, DAY, if_none=True)
    (state,) = warehouse.training.glob("*/unfinished/*.safetensors")
    trained: list[int] = []
    end_epoch = LLMSeqRec.end_epoch
    monkeypatch.setattr(
        LLMSeqRec,
        "end_epoch",
        lambda model, epoch: (trained.append(epoch), end_epoch(model, epoch)),
    )
    assert train_champion(warehouse, config, DAY, if_none=True) == whole
    assert trained == [2, 3]
    assert not state.exists()


def test_a_challenger_that_is_killed_while_it_is_judged_is_not_trained_again(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, 2)
    train_champion(warehouse, config, DAY, if_none=True)
    with monkeypatch.context() as patch:
        patch.setattr("recbole_llm.champion.compare", lambda *_: _die())
        with pytest.raises(Killed):
            train_champion(warehouse, config, NEXT_DAY, if_none=False)
    (made,) = {path.parent.name for path in warehouse.artifacts.glob("*/artifact.json")} - {
        json.loads(warehouse.champion.read_text())["model_version"]
    }
    monkeypatch.setattr(LLMSeqRec, "end_epoch", lambda *_: _die())
    train_champion(warehouse, config, NEXT_DAY, if_none=False)
    (decided,) = warehouse.decisions.glob(f"{NEXT_DAY}-*.json")
    assert decided.stem == f"{NEXT_DAY}-{made}"
    assert not [*warehouse.training.glob("*/unfinished")]


def _die() -> None:
    raise Killed


def test_a_training_of_something_else_starts_anew(warehouse: Warehouse, tmp_path: Path) -> None:
    with killed_after(1):
        train_champion(warehouse, _config(tmp_path, 4), DAY, if_none=True)
    (before,) = warehouse.training.iterdir()
    train_champion(warehouse, _config(tmp_path, 2), DAY, if_none=True)
    (after,) = warehouse.training.iterdir()  # who met what in earlier days is not kept
    assert before != after
    assert (after / f"night-{DAY}").is_dir()
    assert _decision(warehouse, DAY, "first")["epochs"] == 2


def test_a_private_challenger_starts_cold(warehouse: Warehouse, tmp_path: Path) -> None:
    train_champion(warehouse, _config(tmp_path, 1), DAY, if_none=True)
    config = _config(tmp_path, 1, days=3)
    content = yaml.safe_load(config.read_text())
    content["training"]["privacy.epsilon"] = 8.0
    config.write_text(yaml.safe_dump(content))
    train_champion(warehouse, config, NEXT_DAY, if_none=False)
    (told,) = [
        decision
        for file in warehouse.decisions.glob("*.json")
        if (decision := json.loads(file.read_text()))["ds"] == NEXT_DAY
    ]
    assert told["warm_from"] is told["train_since"] is None
    assert told["cold_because"] == "privacy.epsilon: the champion's weights know its users"


def test_what_the_champion_has_not_seen_is_learnt_however_few_days_are_asked_for() -> None:
    assert _first_day("2024-05-20", 3, {}) == "2024-05-18"
    assert _first_day("2024-05-20", 3, {"data_cut": "2024-05-19"}) == "2024-05-18"
    assert _first_day("2024-05-20", 3, {"data_cut": "2024-05-10"}) == "2024-05-11"


@pytest.mark.parametrize("value", ["~", "{epochs: 3}", "{days: -1}", "{days: true}", "{days: 1.5}"])
def test_a_continuation_needs_its_days(warehouse: Warehouse, tmp_path: Path, value: str) -> None:
    config = _config(tmp_path, 0)
    shown = "{days: 0, epochs: 2, eval_step: 0}"
    config.write_text(config.read_text().replace(shown, value))
    with pytest.raises(ConfigError, match="'continuation' must hold 'days'"):
        train_champion(warehouse, config, DAY, if_none=True)


def test_only_a_model_with_an_artifact_can_be_champion(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="must be LLMSeqRec or LinearSeqRec, the models that"):
        train_champion(warehouse, _config(tmp_path, 1, "SASRec"), DAY, if_none=False)


def test_a_challenger_needs_days_before_those_it_is_judged_by(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    train_champion(warehouse, _config(tmp_path, 0), DAY, if_none=True)
    config = _config(tmp_path, 0)
    config.write_text(config.read_text().replace("days: 2", "days: 99"))
    with pytest.raises(DataError, match="no event to train on"):
        train_champion(warehouse, config, DAY, if_none=False)


def test_a_decoder_that_nights_do_not_rank_by_is_told_before_training(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    config = tmp_path / "night.yaml"
    config.write_text("training: {model: LLMSeqRec, decoder: semantic_ids}\n")
    with pytest.raises(
        ConfigError, match="must be softmax, by which nights rank; got 'semantic_ids'"
    ):
        train_champion(warehouse, config, DAY, if_none=False)
