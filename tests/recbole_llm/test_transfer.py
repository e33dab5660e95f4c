"""What a new domain takes over from an artifact of another, where texts are all that is shared."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llm import transfer
from recbole_llm.cli import main
from recbole_llm.errors import ConfigError
from recbole_llm.scoring import load_scorer
from recbole_llm.train import train
from tests.data import CYCLE, walk, write_atomic
from tests.words import texts_of, train_on_words

_SMALL = {
    "hidden_size": 32, "n_layers": 1, "n_heads": 2, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 6,
    "text_size": 16, "encoder": "tfidf",
}  # fmt: skip
_QUICK = {"train_batch_size": 16, "learning_rate": 0.01, "show_progress": False}
_OTHERS = [f"other{n}" for n in range(12)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that has learnt the cycle."""
    return train_on_words(tmp_path_factory.mktemp("source"))


@pytest.fixture
def other_shop(tmp_path: Path) -> Path:
    """Other users and other ids, whose texts are those of the cycle; few events."""
    renamed = dict(zip(CYCLE, _OTHERS, strict=True))
    sequences = {f"x{n}": [renamed[item] for item in walk(n, 5)] for n in range(12)}
    write_atomic(tmp_path, "books", sequences, texts_of(_OTHERS))
    return tmp_path


def _started(source: Path, data: Path, **settings: Any) -> Any:
    return train("LLMSeqRec", "books", None, {
        "transfer_from": str(source), "data_path": str(data), "epochs": 0, "show_progress": False,
        "artifact_dir": str(data / "artifacts"), "topk": [1], "valid_metric": "NDCG@1", **settings,
    })  # fmt: skip


def test_what_was_learnt_of_texts_holds_for_other_items(source: Path, other_shop: Path) -> None:
    found = _started(source, other_shop)
    assert found.start == {
        "transferred_from": source.name, "from_dataset": "films", "n_items": 12, "n_without_text": 0
    }  # fmt: skip
    assert found.epochs == 0
    assert found.test_result["recall@1"] > 0.9
    cold = _started(source, other_shop, transfer_from=None, **_SMALL)
    assert cold.start is None
    assert cold.test_result["recall@1"] < 0.5


def test_vectors_are_those_of_new_items_of_the_old_network(source: Path, other_shop: Path) -> None:
    """The lists of a history are the same, item for item, by either artifact."""
    found = _started(source, other_shop)
    before, after = load_scorer(source), load_scorer(found.artifact)
    was = before.top_k([walk(3, 4)], 3).item_ids[0]
    now = after.top_k([[_OTHERS[CYCLE.index(item)] for item in walk(3, 4)]], 3).item_ids[0]
    assert now[0] == _OTHERS[CYCLE.index(was[0])]


def test_an_item_without_text_starts_as_an_average_one(source: Path, other_shop: Path) -> None:
    write_atomic(
        other_shop, "books", {f"x{n}": ["blank", *_OTHERS[n % 4 : n % 4 + 4]] for n in range(12)},
        {**texts_of(_OTHERS), "blank": ""},
    )  # fmt: skip
    found = _started(source, other_shop)
    assert found.start["n_without_text"] == 1
    artifact = load_scorer(found.artifact).artifact
    assert torch.isfinite(artifact.item_matrix).all()
    assert artifact.item_matrix[1 + artifact.item_ids.index("blank")].abs().sum() > 0


def test_training_goes_on_from_there(source: Path, other_shop: Path) -> None:
    found = _started(source, other_shop, epochs=2, **_QUICK)
    assert found.epochs == 2
    assert found.test_result["recall@1"] > 0.9


def test_text_alone_is_carried_too(source: Path, other_shop: Path) -> None:
    found = _started(source, other_shop, item_repr="text")
    assert torch.isfinite(load_scorer(found.artifact).item_vectors).all()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"hidden_size": 16}, "hidden_size is 16, was 32"),
        ({"item_repr": "id"}, "goes by texts"),
        ({"adaptor": "moe"}, "a linear adaptor"),
        ({"warm_start": "somewhere"}, "set one of them"),
    ],
)
def test_what_does_not_fit_is_told_before_training(
    source: Path, other_shop: Path, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        _started(source, other_shop, **settings)


def test_from_the_command_line(
    source: Path, other_shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    flags = ["--dataset", "books", f"--data_path={other_shop}", "--epochs=0"]
    flags += [f"--artifact_dir={other_shop / 'artifacts'}", "--show_progress=False"]
    monkeypatch.chdir(other_shop)
    assert main(["transfer", "--from", str(source), *flags]) == 0
    assert len([*(other_shop / "artifacts").glob("*/artifact.json")]) == 1
    assert main(["transfer", "--from", str(other_shop / "none"), *flags]) != 0
    assert "no artifact at" in capsys.readouterr().err


def test_what_was_brought_stays_where_training_adds_nothing(source: Path, other_shop: Path) -> None:
    """The first epoch forgets it all, the learning rate is that large; the start is kept."""
    found = _started(source, other_shop, epochs=1, learning_rate=100.0)
    assert found.best_epoch == 0
    assert found.test_result["recall@1"] > 0.9
    assert found.best_valid_result["ndcg@1"] > 0.9
    metrics = {"metrics": ["NDCG", "ItemCoverage"], "valid_metric": "NDCG@1"}
    found = _started(source, other_shop, epochs=1, learning_rate=100.0, **metrics)
    assert found.best_valid_result["itemcoverage@1"] > 0.5


@pytest.mark.parametrize("settings", [{"eval_step": 0}, {"privacy.epsilon": 8.0}])
def test_what_no_epoch_was_held_against_does_not_stand_for_the_training(
    source: Path, other_shop: Path, settings: dict[str, Any]
) -> None:
    """Weights that forget all they brought are the ones that were trained."""
    found = _started(source, other_shop, epochs=1, learning_rate=100.0, ema_decay=0.0, **settings)
    assert (found.epochs, found.best_epoch) == (1, None)
    assert found.test_result["recall@1"] < 0.9


def test_a_text_like_no_old_one_is_drawn_toward_the_mean() -> None:
    def trust(*new: list[float]) -> list[float]:
        old = [[0.0, 0, 0], [1, 0, 0], [0, 2, 0]]
        has_text = torch.tensor([any(row) for row in new])
        vectors = torch.tensor([*old, *new])
        return [round(each, 4) for each in transfer._trust(vectors, 3, has_text).tolist()]

    padding, same, half, other = [0.0, 0, 0], [3.0, 0, 0], [0.6, 0, 0.8], [0.0, 0, 1]
    assert trust(padding, same, same, half, other) == [0, 1, 1, 0.6, 0]
    # Where nothing overlaps, all are taken as they are: a likeness of nothing to nothing is no sign.
    assert trust(padding, other, [0.0, -1, 1]) == [0, 1, 1]
