"""What a private training may know of a user: one clipped, noised gradient a step and noised counts."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import norm

from recbole_llm.errors import ConfigError, DataError
from recbole_llm.model import LLMSeqRec
from recbole_llm.options import PrivacyOptions
from recbole_llm.private_training import Noise, PrivateSteps, noised_popularity, plan_noise
from recbole_llm.scoring import load_artifact
from recbole_llm.train import build_config, build_data, train
from recbole_llm.trainer import LLMSeqRecTrainer
from tests.data import CYCLE, walk, write_atomic, write_cycle

_SMALL: dict[str, Any] = {
    "hidden_size": 8, "n_layers": 1, "inner_size": 8, "MAX_ITEM_LIST_LENGTH": 5, "item_repr": "id",
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "id_dropout_prob": 0.0,
    "privacy.epsilon": 4.0, "epochs": 3, "train_batch_size": 64, "initializer_range": 0.2,
}  # fmt: skip


def _options(**changes: Any) -> PrivacyOptions:
    return PrivacyOptions(
        **{"epsilon": 4.0, "delta": 1e-4, "max_grad_norm": 1.0, "popularity_share": 0.1, **changes}
    )


def _build(parent: Path, name: str = "cycle", **settings: Any) -> tuple[LLMSeqRec, Any]:
    config = build_config("LLMSeqRec", name, None, {**_SMALL, "data_path": str(parent), **settings})
    _, (batches, _, _) = build_data(config)
    torch.manual_seed(0)
    return LLMSeqRec(config, batches.dataset), batches.dataset


def test_one_release_has_the_noise_of_the_gaussian_mechanism() -> None:
    noise = plan_noise(_options(popularity_share=0.0), n_users=100, batch_size=100, epochs=1)
    assert (noise.steps, noise.sample_rate, noise.popularity_noise) == (1, 1.0, 0.0)
    # The exact trade-off of one release, Balle and Wang, arXiv:1805.06530.
    half, slope = 0.5 / noise.gradient_noise, 4.0 * noise.gradient_noise
    delta = norm.cdf(half - slope) - math.exp(4.0) * norm.cdf(-half - slope)
    assert delta == pytest.approx(1e-4, rel=0.25)
    assert delta <= 1e-4


def test_the_budget_is_kept_and_costs_noise() -> None:
    plan = plan_noise(_options(), n_users=1000, batch_size=250, epochs=5)
    assert plan.steps == 20
    assert plan.sample_rate == 0.25
    assert 3.9 < plan.epsilon <= 4.0
    noisier = [
        plan_noise(_options(epsilon=1.0), 1000, 250, 5),
        plan_noise(_options(), 1000, 250, 50),
        plan_noise(_options(), 1000, 1000, 5),
        plan_noise(_options(popularity_share=0.5), 1000, 250, 5),
    ]
    assert all(other.gradient_noise > plan.gradient_noise for other in noisier)
    assert plan_noise(_options(delta=None), 1000, 250, 5).delta == 1e-4
    with pytest.raises(ConfigError, match=r"epsilon 1e-09 cannot be kept at delta 1e-12"):
        plan_noise(_options(epsilon=1e-9, delta=1e-12), 1000, 10, 500)


def test_a_user_counts_with_length_one_however_much_they_met() -> None:
    some, more = torch.tensor([3, 1, 1, 0]), torch.tensor([2, 4, 1, 5])
    noise = 1e-5

    def counts(*sequences: torch.Tensor) -> torch.Tensor:
        return noised_popularity([*sequences], 7, noise).exp() * noise

    both = counts(some, more)
    for one, other in ((some, more), (more, some)):
        assert (both - counts(other)).norm().item() == pytest.approx(1.0, abs=1e-3)
        assert ((both - counts(other)).nonzero().squeeze(1) > 0).all()
        assert set((both - counts(other) > 0.1).nonzero().squeeze(1).tolist()) == set(
            one.tolist()
        ) - {0}
    assert noised_popularity([some], 7, 100.0).min() == 0.0


def _noise(**changes: Any) -> Noise:
    given = {
        "epsilon": 1.0, "delta": 1e-4, "unit": "user", "gradient_noise": 0.0, "popularity_noise": 0.0,
        "max_grad_norm": 0.5, "sample_rate": 1.0, "steps": 1,
    }  # fmt: skip
    return Noise(**{**given, **changes})


def test_a_step_is_the_mean_of_the_users_clipped_gradients(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    model, users = _build(tmp_path, ema_decay=0.0)
    parameters = [*model.network.parameters()]
    before = [value.detach().clone() for value in parameters]
    expected, norms = [torch.zeros_like(value) for value in parameters], []
    for row in range(len(users)):
        loss = model.user_loss(users[torch.tensor([row])])
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
        norms.append(torch.stack([value.norm() for value in gradients]).norm().item())
        share = min(0.5 / norms[-1], 1.0) / len(users)
        expected = [total + share * one for total, one in zip(expected, gradients, strict=True)]
    assert min(norms) < 0.5 < max(norms) or min(norms) > 0.5
    steps = PrivateSteps(model, torch.optim.SGD(parameters, lr=1.0), users, _noise())
    steps.epoch(0, show_progress=False)
    for now, then, step in zip(parameters, before, expected, strict=True):
        torch.testing.assert_close(then - now.detach(), step, atol=1e-5, rtol=1e-4)


def test_noise_comes_whoever_is_drawn_and_no_seed_gives_it_again(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    model, users = _build(tmp_path, ema_decay=0.0)
    parameters = [*model.network.parameters()]
    moves = []
    for _ in range(2):
        torch.manual_seed(0)
        before = [value.detach().clone() for value in parameters]
        noise = _noise(gradient_noise=3.0, sample_rate=1e-9)
        steps = PrivateSteps(model, torch.optim.SGD(parameters, lr=1.0), users, noise)
        steps._step()  # as after a draw of nobody
        pairs = zip(parameters, before, strict=True)
        moves.append(torch.cat([(then - now.detach()).flatten() for now, then in pairs]))
    n = len(moves[0])
    for move in moves:
        assert move.std().item() == pytest.approx(3.0 * 0.5, rel=5 / (2 * n) ** 0.5)
    assert abs(torch.corrcoef(torch.stack(moves))[0, 1]) < 5 / n**0.5


def test_another_user_changes_nothing_but_the_rows_that_are_learnt_from(tmp_path: Path) -> None:
    everyone = {f"u{n}": walk(n, 7) for n in range(8)}
    one_more = {"new": ["i9", "i7", "i11", "i2", "i3"], **everyone}
    texts = {item: f"Film {item}" for item in CYCLE}
    models = []
    for name, sequences in (("with", one_more), ("without", everyone)):
        write_atomic(tmp_path, name, sequences, texts)
        model, users = _build(
            tmp_path,
            name,
            item_repr="id+text",
            encoder="tfidf",
            **{"privacy.popularity_share": 0.0},
        )
        assert len(users) == len(sequences)
        models.append((model, users))
    (ours, learnt), (theirs, _) = models
    assert learnt.item_tokens() == ["[PAD]", *CYCLE]
    for name, value in ours.catalogue._asdict().items():
        other = getattr(theirs.catalogue, name)
        assert value is other is None or torch.equal(value, other), name
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def test_a_user_is_one_row_of_their_newest_items(tmp_path: Path) -> None:
    write_atomic(
        tmp_path, "long", {"u": walk(0, 12), "v": walk(3, 4)}, {item: item for item in CYCLE}
    )
    _, users = _build(tmp_path, "long")
    rows = users[torch.arange(len(users))]
    names, items = users.field2id_token["user_id"], users.field2id_token["item_id"]
    met = torch.cat([rows["item_id_list"], rows["item_id"][:, None]], 1)
    read = {
        names[user]: [str(items[item]) for item in row[row > 0]]
        for user, row in zip(rows["user_id"], met, strict=True)
    }
    assert read == {"u": walk(4, 6), "v": walk(3, 2)}


def test_a_training_by_name_keeps_its_budget_and_says_so(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    settings = {
        **_SMALL, "data_path": str(tmp_path), "item_repr": "id+text", "encoder": "tfidf",
        "stopping_step": 1, "epochs": 4, "checkpoint_dir": str(tmp_path / "saved"),
    }  # fmt: skip
    runs = [train("LLMSeqRec", "cycle", None, settings) for _ in range(2)]
    for run in runs:
        assert run.epochs == 4  # no validation ended it
        assert run.best_epoch is None
        assert 0 <= run.best_valid_result["ndcg@10"] <= 1
        assert run.artifact is not None
        told = json.loads((run.artifact / "artifact.json").read_text())["privacy"]
        assert told["unit"] == "user"
        assert told["steps"] == 4
        assert 3.9 < told["epsilon"] <= 4.0
        assert told["delta"] == pytest.approx(0.1 / 36)
        assert len({*load_artifact(run.artifact).n_events}) == 1  # who was met is not told
    assert runs[0].artifact != runs[1].artifact  # the same seed, other noise


def test_a_looser_budget_learns_more(tmp_path: Path) -> None:
    write_cycle(tmp_path, n_users=48)
    settings = {**_SMALL, "data_path": str(tmp_path), "epochs": 20, "train_batch_size": 48,
                "learning_rate": 0.03, "checkpoint_dir": str(tmp_path / "saved"),
                "privacy.popularity_share": 0.0, "ema_decay": 0.0}  # fmt: skip
    loose, tight = (
        train("LLMSeqRec", "cycle", None, {**settings, "privacy.epsilon": epsilon}).test_result
        for epsilon in (1000.0, 0.1)
    )
    assert loose["mrr@10"] > 0.9
    assert tight["mrr@10"] < 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warm_start": "saved"}, "warm_start .the earlier model's weights know its users"),
        ({"item_inter_num_interval": "[5,inf)"}, "item_inter_num_interval .which items stay"),
        ({"enable_amp": True}, "enable_amp"),
        ({"encoder.finetune": "lora", "item_repr": "id+text"}, "encoder.finetune"),
        (
            {"eval_args": {"group_by": None, "order": "TO", "split": {"RS": [0.8, 0.1, 0.1]}}},
            "group_by other than",
        ),
        ({"privacy.epsilon": 0}, r"privacy.epsilon must be above 0, or ~ \(float\), got 0"),
        ({"privacy.delta": 1.5}, "privacy.delta must be in"),
        ({"privacy.max_grad_norm": 0.0}, "privacy.max_grad_norm must be above 0"),
        ({"privacy.popularity_share": 1.0}, "privacy.popularity_share must be in"),
    ],
)
def test_what_would_tell_of_users_otherwise_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    write_cycle(tmp_path)
    with pytest.raises(ConfigError, match=message):
        _build(tmp_path, **settings)


def test_an_item_that_only_events_name_is_refused(tmp_path: Path) -> None:
    write_atomic(tmp_path, "gaps", {f"u{n}": walk(n, 6) for n in range(6)}, {"i0": "Film"})
    with pytest.raises(
        DataError, match=r"10 items of the .inter file have no row .* the catalogue"
    ):
        _build(tmp_path, "gaps")


def test_a_private_training_is_not_gone_on_with(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    model, _ = _build(tmp_path, checkpoint_dir=str(tmp_path / "saved"))
    trainer = LLMSeqRecTrainer(model.config, model)
    with pytest.raises(ConfigError, match="train anew"):
        trainer.resume_checkpoint(str(tmp_path / "some.safetensors"))


def test_opacus_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
    with pytest.raises(ConfigError, match=r"pip install recbole-llm\[private\]"):
        plan_noise(_options(), 10, 10, 1)
