"""What must hold of the model, proved on a network with random weights."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_llm.errors import TrainingError
from recbole_llm.export import export_artifact
from recbole_llm.model import LLMSeqRec
from recbole_llm.scoring import load_artifact, load_scorer
from recbole_llm.train import build_config, build_data, train
from tests.data import CYCLE, walk, write_cycle

_SMALL = {
    "hidden_size": 16, "n_layers": 2, "n_heads": 2, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 6,
    "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1, "train_batch_size": 16,
    "learning_rate": 0.01, "epochs": 25, "initializer_range": 0.2,
}  # fmt: skip


@pytest.fixture(params=["id", "text", "id+text"])
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_encoders: dict[str, Path]
) -> dict[str, Any]:
    write_cycle(tmp_path)
    return {
        **_SMALL,
        "data_path": str(tmp_path),
        "item_repr": request.param,
        "encoder": str(tiny_encoders["bert"]),
        "text_cache": str(tmp_path / "cache.sqlite"),
    }


@pytest.fixture(params=["dot", "cosine"])
def model(request: pytest.FixtureRequest, settings: dict[str, Any]) -> LLMSeqRec:
    config = build_config("LLMSeqRec", "cycle", None, {**settings, "score": request.param})
    dataset, _ = build_data(config)
    torch.manual_seed(0)
    model = LLMSeqRec(config, dataset).eval()
    network = model.scoring_network
    assert network.repeats is not None
    torch.nn.init.normal_(network.repeats.weight)
    model.network.load_state_dict(network.state_dict())
    return model


def _interaction(model: LLMSeqRec, sequences: list[list[int]], targets: list[int]) -> Interaction:
    item_seq = torch.zeros(len(sequences), model.max_seq_length, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        item_seq[row, : len(sequence)] = torch.tensor(sequence)
    return Interaction(
        {
            "item_id_list": item_seq,
            "item_length": torch.tensor([len(sequence) for sequence in sequences]),
            "item_id": torch.tensor(targets),
            "user_id": torch.arange(1, len(sequences) + 1),
        }
    )


@torch.no_grad()
def test_a_later_item_never_changes_an_earlier_state(model: LLMSeqRec) -> None:
    items, length = model.item_matrix(), torch.tensor([6])
    one, other = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([1, 2, 3, 9, 8, 7])
    states, others = (model.scoring_network.sequences(items[seq], length) for seq in (one, other))
    torch.testing.assert_close(states[:3], others[:3])
    assert (states[3] - others[3]).abs().max() > 1e-3


@torch.no_grad()
def test_other_sequences_of_a_batch_change_nothing(model: LLMSeqRec) -> None:
    sequences = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [2], [3, 3]]
    batch = _interaction(model, sequences, [1] * 4)
    together = model(batch["item_id_list"], batch["item_length"])
    for state, sequence in zip(together, sequences, strict=True):
        one = _interaction(model, [sequence], [1])
        alone = model(one["item_id_list"], one["item_length"])[0]
        torch.testing.assert_close(state, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_predict_is_a_column_of_full_sort_predict(model: LLMSeqRec) -> None:
    batch = _interaction(model, [[1, 2], [3], [5, 4, 3, 2, 1, 6]], [7, 1, 12])
    every = model.full_sort_predict(batch)
    assert every.shape == (3, model.n_items)
    # One dot product a row against a matrix product: float32 sums in another order.
    torch.testing.assert_close(
        model.predict(batch), every[torch.arange(3), batch["item_id"]], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_an_item_nobody_met_has_a_finite_score_of_its_own(model: LLMSeqRec) -> None:
    scores = model.full_sort_predict(_interaction(model, [[1, 2]], [1]))[0]
    assert model.n_items == len(CYCLE) + 2  # padding and the cold item
    assert torch.isfinite(scores).all()
    assert len(scores[1:].unique()) == model.n_items - 1


@torch.no_grad()
def test_the_new_item_bias_is_in_new_items_scores_alone(settings: dict[str, Any]) -> None:
    scores = []
    for bias in (0.0, 2.5):
        config = build_config("LLMSeqRec", "cycle", None, {**settings, "new_item_bias": bias})
        dataset, _ = build_data(config)
        torch.manual_seed(0)
        model = LLMSeqRec(config, dataset).eval()
        scores.append(model.full_sort_predict(_interaction(model, [[1, 2], [3]], [1, 1])))
    gained = scores[1] - scores[0]
    is_new = torch.tensor([token == "cold" for token in dataset.item_tokens()])
    torch.testing.assert_close(gained[:, ~is_new], torch.zeros(2, model.n_items - 1))
    if settings["item_repr"] == "id":  # nothing is known of it: no bias lifts it
        assert (scores[1][:, is_new] < scores[1][:, 1:][:, ~is_new[1:]].amin(1, keepdim=True)).all()
    else:
        torch.testing.assert_close(gained[:, is_new], torch.full((2, 1), 2.5))


@torch.no_grad()
def test_item_vectors_are_kept_while_ranking_and_follow_new_weights(model: LLMSeqRec) -> None:
    before = model.item_matrix()
    assert model.item_matrix() is before
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    loaded = model.item_matrix()
    assert (loaded - before).abs().max() > 0.1
    for parameter in model.scoring_network.parameters():
        parameter.sub_(1.0)
    assert model.item_matrix() is loaded
    model.train().eval()
    torch.testing.assert_close(model.item_matrix(), before)


def _prefix_loss(model: LLMSeqRec) -> torch.Tensor:
    """The loss of [1, 2, 1] → 5 and [4] → 6, one prefix after another.

    The three items after a position are its targets, by the default settings; each counts half as
    much as the one before it.
    """
    prefixes = _interaction(model, [[1], [1, 2], [1, 2, 1], [4]], [2, 1, 5, 6])
    targets = [{2: 4 / 7, 1: 2 / 7, 5: 1 / 7}, {1: 2 / 3, 5: 1 / 3}, {5: 1.0}, {6: 1.0}]
    logits = model.full_sort_predict(prefixes)
    logs = logits.masked_fill(~model.is_known, -torch.inf).log_softmax(1)
    losses = [
        -share * logs[row, item]
        for row, shares in enumerate(targets)
        for item, share in shares.items()
    ]
    return torch.stack(losses).sum() / len(targets)


def test_loss_is_cross_entropy_over_known_items_at_every_position(model: LLMSeqRec) -> None:
    assert int(model.is_known.sum()) == len(CYCLE)  # neither padding nor the item nobody met
    loss = model.calculate_loss(_interaction(model, [[1, 2, 1], [4]], [5, 6]))
    torch.testing.assert_close(loss, _prefix_loss(model), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_plain_loss(model: LLMSeqRec) -> None:
    model.average = None  # so that full_sort_predict reads the weights that are trained
    parameters = list(model.network.parameters())
    loss = model.calculate_loss(_interaction(model, [[1, 2, 1], [4]], [5, 6]))
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    expected = torch.autograd.grad(_prefix_loss(model), parameters, allow_unused=True)
    for parameter, one, other in zip(parameters, gradients, expected, strict=True):
        zeros = torch.zeros_like(parameter)
        torch.testing.assert_close(
            zeros if one is None else one, zeros if other is None else other, atol=1e-5, rtol=1e-4
        )


def test_a_loss_that_is_no_number_names_the_batchs_users(model: LLMSeqRec) -> None:
    with torch.no_grad():
        next(model.network.parameters()).fill_(torch.nan)
    with pytest.raises(
        TrainingError, match=r"the loss is nan on the batch of users \['u0', 'u1'\]"
    ):
        model.calculate_loss(_interaction(model, [[1, 2, 1], [4]], [5, 6]))


@torch.no_grad()
def test_the_average_ranks_and_lags_behind_the_trained_weights(model: LLMSeqRec) -> None:
    batch = _interaction(model, [[1, 2]], [3])
    before = model.full_sort_predict(batch)
    for parameter in model.network.parameters():
        parameter.add_(1.0)
    torch.testing.assert_close(model.full_sort_predict(batch), before)
    assert model.average is not None
    start = [parameter.clone() for parameter in model.average.parameters()]
    model.average.n_averaged.fill_(1)
    model.calculate_loss(batch)
    for parameter, old in zip(model.average.parameters(), start, strict=True):
        torch.testing.assert_close(parameter, old + 0.01, atol=1e-6, rtol=1e-5)  # ema_decay 0.99


@pytest.mark.slow
def test_learns_the_cycle_repeats_by_seed_and_exports(settings: dict[str, Any]) -> None:
    first = train("LLMSeqRec", "cycle", None, settings)
    # The next item on the cycle is certain; popularity alone gives about 1 in 12.
    assert first.test_result["mrr@10"] > 0.95
    again = train("LLMSeqRec", "cycle", None, settings)
    assert again.artifact == first.artifact  # named by content: every weight is the same
    other = train("LLMSeqRec", "cycle", None, {**settings, "seed": 7})
    assert other.artifact != first.artifact


@pytest.mark.slow
def test_learns_the_cycle_in_mixed_precision(settings: dict[str, Any]) -> None:
    result = train("LLMSeqRec", "cycle", None, {**settings, "enable_amp": True})
    assert result.test_result["mrr@10"] > 0.95
    assert result.artifact is not None
    matrix = load_artifact(result.artifact).item_matrix
    assert matrix.dtype == torch.float32


def test_exported_scorer_ranks_as_the_model_in_recbole(
    model: LLMSeqRec, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = build_config(
        "LLMSeqRec", "cycle", None, {**settings, "score": model.options.sequence.score}
    )
    dataset, _ = build_data(config)
    path = export_artifact(model, dataset, config, {}, tmp_path / "artifacts")
    tokens = dataset.item_tokens()
    sequences = [walk(start, 1 + start) for start in range(9)]  # some longer than the model reads
    ids = [[tokens.index(item) for item in sequence][-6:] for sequence in sequences]
    with torch.no_grad():
        scores = model.full_sort_predict(_interaction(model, ids, [1] * len(ids)))
    scores[:, 0] = -torch.inf
    values, rows = scores.topk(5)
    top = load_scorer(path).top_k(sequences, 5, exclude_seen=False)
    assert top.item_ids == [[tokens[row] for row in line] for line in rows.tolist()]
    torch.testing.assert_close(
        torch.tensor([list(line) for line in top.scores]), values, atol=1e-5, rtol=1e-5
    )


def test_an_artifact_tells_what_was_met_in_training(settings: dict[str, Any]) -> None:
    path = train("LLMSeqRec", "cycle", None, {**settings, "epochs": 1}).artifact
    assert path is not None
    artifact = load_artifact(path)
    met = Counter(item for n in range(36) for item in walk(n, 6 + n % 9)[:-2])  # two are held out
    assert artifact.n_events == [met[item] for item in artifact.item_ids]


def test_training_ranks_what_is_disliked_lower(settings: dict[str, Any], tmp_path: Path) -> None:
    lines = [f"u{n}\ti7 unheard cold" for n in range(30)]
    head = "user_id:token\tdisliked_ids:token_seq"
    (tmp_path / "cycle" / "cycle.user").write_text("\n".join([head, *lines, "nobody\ti1"]) + "\n")
    scores = {}
    for weight in (0.0, 3.0):
        given = {**settings, "dislike_loss_weight": weight, "epochs": 5}
        dataset, _ = build_data(build_config("LLMSeqRec", "cycle", None, given))
        items, starts = dataset.disliked()
        known = dataset.field2token_id["item_id"]
        if weight:
            assert items.tolist() == [known["i7"], known["cold"]] * 30
            assert (starts[2:] - starts[1:-1]).tolist().count(2) == 30
        else:
            assert len(items) == 0
        artifact = train("LLMSeqRec", "cycle", None, given).artifact
        assert artifact is not None
        best = load_scorer(artifact).top_k([["i0", "i1"]], 12, exclude_seen=False)
        scores[weight] = best.scores[0][best.item_ids[0].index("i7")] - best.scores[0].mean()
    assert scores[3.0] < scores[0.0] - 0.1


def test_items_that_nobody_met_are_held_against_targets_where_asked(tmp_path: Path) -> None:
    """One item has a text and no event: by default no loss tells it anything."""
    write_cycle(tmp_path)
    for negatives, is_candidate in (("met", False), ("all", True)):
        settings = {
            **_SMALL,
            "encoder": "tfidf",
            "data_path": str(tmp_path),
            "negatives": negatives,
        }
        config = build_config("LLMSeqRec", "cycle", None, settings)
        dataset, loaders = build_data(config)
        model = LLMSeqRec(config, loaders[0]._dataset)
        assert bool(model.is_known[dataset.item_tokens().index("cold")]) == is_candidate
        assert not model.is_known[0]
