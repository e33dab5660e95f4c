"""The linear model: a history is a weighted mean and one matrix, and each item has its exact share."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_llm.errors import ConfigError
from recbole_llm.explain.explainer import Explainer
from recbole_llm.linear_reader import LinearReader
from recbole_llm.onnx_scorer import export_scorer
from recbole_llm.scoring import load_artifact, load_scorer, why
from recbole_llm.train import build_config, build_data, train
from tests.data import CYCLE, walk, write_cycle

_SMALL = {
    "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 6, "train_batch_size": 16, "learning_rate": 0.01,
    "epochs": 25, "initializer_range": 0.2, "encoder": "tfidf",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear")
    write_cycle(folder)
    settings = {**_SMALL, "data_path": str(folder), "artifact_dir": str(folder / "artifacts")}
    result = train("LinearSeqRec", "cycle", None, settings)
    assert result.test_result["mrr@10"] > 0.95  # what comes next is a linear map of what came last
    assert result.artifact is not None
    return result.artifact


def test_a_state_by_hand() -> None:
    reader = LinearReader(2, 3, 0.0).eval()
    with torch.no_grad():
        reader.map.weight.copy_(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        reader.map.bias.copy_(torch.tensor([0.5, 0.0]))
        reader.lag_logits.copy_(torch.tensor([math.log(3.0), 0.0, math.log(0.5)]))
    met = torch.tensor([[4.0, 0.0], [0.0, 8.0], [1.0, 1.0]])
    # Newest first they count 3, 1 and 1/2: after two, (0, 8) three times as much as (4, 0).
    after_two = torch.tensor([[2 * 6.0 + 0.5, 1.0]])
    mean = (0.5 * met[0] + met[1] + 3 * met[2]) / 4.5
    after_three = torch.stack([2 * mean[1] + 0.5, mean[0]]).unsqueeze(0)
    with torch.no_grad():
        states = reader(torch.cat([met, met[:2]]), torch.tensor([3, 2]))
        last = reader.last_states(met.expand(2, 3, 2), torch.tensor([3, 2]))
    assert torch.allclose(states[0], torch.tensor([0.5, 4.0]))
    for found in (states[1], states[4], last[1]):
        torch.testing.assert_close(found.unsqueeze(0), after_two)
    for found in (states[2], last[0]):
        torch.testing.assert_close(found.unsqueeze(0), after_three)
    torch.testing.assert_close(
        reader.looks(3)[0, 0, 2], torch.tensor([0.5, 1.0, 3.0]) / 4.5
    )  # fmt: skip
    targets = torch.tensor([[[1.0, 2.0]], [[0.0, 1.0]]])
    with torch.no_grad():
        shares = reader.shares(met.expand(2, 3, 2), torch.tensor([3, 2]), targets)
    scores = torch.einsum("bh,brh->br", last, targets)
    of_bias = torch.einsum("h,brh->br", reader.map.bias.detach(), targets)
    torch.testing.assert_close(shares.sum(2) + of_bias, scores)
    assert shares[1, 0, 2] == 0  # padding


def test_what_is_dropped_in_training_is_never_the_newest() -> None:
    reader = LinearReader(4, 5, 0.99).train()
    met = torch.randn(5, 4)
    states = reader(met, torch.tensor([5]))
    assert torch.isfinite(states).all()
    torch.testing.assert_close(states[0], met[0])  # one item is all there is, and W is one


def test_an_artifact_ranks_as_the_model_does(trained: Path, tmp_path: Path) -> None:
    artifact = load_artifact(trained)
    assert artifact.sequence_config.reader == "linear"
    assert set(artifact.encoder_weights) == {"lag_logits", "map.weight", "map.bias"}
    scorer = load_scorer(trained)
    histories = [walk(0, 1), walk(3, 4), walk(5, 9)]
    best = scorer.top_k(histories, 1, exclude_seen=False)
    assert best.item_ids == [["i1"], ["i7"], ["i2"]]
    index = json.loads((trained / "artifact.json").read_text())
    assert index["sequence"]["reader"] == "linear"
    assert export_scorer(trained, tmp_path / "states.onnx").is_file()


def test_shares_are_exact(trained: Path) -> None:
    scorer = load_scorer(trained)
    history = walk(3, 4)
    found = Explainer(trained).explain(history, ["i7"]).items[0]
    assert found.history[0].item_id == "i6"  # the newest leads to the next
    assert found.shares is not None
    assert found.shares.completeness_error < 1e-3
    gained = {met.item_id: met.gradient for met in found.history}
    artifact = scorer.artifact
    item = torch.from_numpy(np.array(artifact.item_matrix[scorer.row("i7")]))
    of_bias = float(artifact.encoder_weights["map.bias"] @ item)
    own = float(artifact.item_bias[scorer.row("i7")])
    assert sum(gained.values()) + of_bias + own == pytest.approx(found.score, abs=1e-4)
    rows = np.array([scorer.row(each) for each in history])
    told = why(scorer, rows, np.array([4]), np.array([[scorer.row("i7")]]))
    assert told.rows[0, 0, 0] == scorer.row("i6")
    assert told.gains[0, 0, 0] == pytest.approx(gained["i6"], abs=1e-5)


def test_recboles_scores_are_the_artifacts(tmp_path: Path) -> None:
    from recbole_llm.export import export_artifact
    from recbole_llm.model import LinearSeqRec

    write_cycle(tmp_path)
    settings: dict[str, Any] = {**_SMALL, "data_path": str(tmp_path), "repeat_lags": 2}
    config = build_config("LinearSeqRec", "cycle", None, settings)
    dataset, (train_data, *_) = build_data(config)
    torch.manual_seed(0)
    model = LinearSeqRec(config, train_data._dataset).eval()
    with torch.no_grad():
        for weight in model.network.sequences.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    path = export_artifact(model, dataset, config, {}, tmp_path / "artifacts")
    history = walk(2, 5)
    row = torch.tensor([[dataset.token2id("item_id", item) for item in history] + [0]])
    asked = Interaction({"item_id_list": row, "item_length": torch.tensor([5])})
    with torch.no_grad():
        scores = model.full_sort_predict(asked)[0]
    items = [dataset.token2id("item_id", item) for item in CYCLE]
    top = load_scorer(path).top_k([history], len(CYCLE), exclude_seen=False, eligible=CYCLE)
    by_item = dict(zip(top.item_ids[0], top.scores[0].tolist(), strict=True))
    assert [by_item[item] for item in CYCLE] == pytest.approx(scores[items].tolist(), abs=1e-4)


def test_a_reader_that_is_none(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    settings = {**_SMALL, "data_path": str(tmp_path), "reader": "linnear"}
    with pytest.raises(
        ConfigError, match=r"reader must be attention or linear .str., got 'linnear'"
    ):
        build_data(build_config("LLMSeqRec", "cycle", None, settings))
