"""Training on new events alone, from an earlier model's weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from recbole_llm.errors import ConfigError
from recbole_llm.scoring import load_scorer
from recbole_llm.sequences import IS_TRAINED
from recbole_llm.train import build_config, build_data, train
from tests.data import CYCLE, walk

_SMALL = {
    "item_repr": "id", "hidden_size": 16, "n_layers": 1, "n_heads": 2, "inner_size": 32,
    "MAX_ITEM_LIST_LENGTH": 3, "n_targets": 1, "train_batch_size": 16, "learning_rate": 0.02,
    "replay_share": 0.0, "seed": 1,
}  # fmt: skip
_NEW = 1000
"""Older events are of seconds 0, 1, …, new ones of _NEW, _NEW + 1, …"""


def _write(
    parent: Path, name: str, users: dict[str, tuple[list[str], list[str]]], backward: bool = False
) -> None:
    """Write each user's older and new items; ``backward`` turns the users' order around."""
    lines = [
        f"{user}\t{item}\t{start + second}"
        for user, parts in sorted(users.items(), reverse=backward)
        for start, items in zip((0, _NEW), parts, strict=True)
        for second, item in enumerate(items)
    ]
    folder = parent / name
    folder.mkdir(parents=True)
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines])
    (folder / f"{name}.inter").write_text(text + "\n")


def _data(parent: Path, name: str, **more: Any) -> Any:
    """The training loader."""
    given = {**_SMALL, "data_path": str(parent), "warm_start": "unread", **more}
    return build_data(build_config("LLMSeqRec", name, None, given))[1][0]


def _targets(loader: Any) -> list[tuple[str, list[str], list[str]]]:
    """Each window's user, the items that are read and the ones that are asked for."""
    data = loader._dataset
    rows = data[torch.arange(len(data))]
    users, items = data.field2id_token["user_id"], data.field2id_token["item_id"]
    found = []
    for number in range(len(rows)):
        length = int(rows["item_length"][number])
        read = [items[item] for item in rows["item_id_list"][number][:length]]
        following = [*read[1:], items[rows["item_id"][number]]]
        is_trained = rows[IS_TRAINED][number]
        assert not is_trained[length:].any()
        asked = [item for item, is_asked in zip(following, is_trained, strict=False) if is_asked]
        found.append((users[rows["user_id"][number]], read, asked))
    return sorted(found)


_USERS = {
    "back": (walk(0, 6), ["i6", "i7", "i8", "i9"]),
    "gone": (walk(0, 9), []),
    "here": (["i1", "i2"], walk(3, 7)),
    "once": (walk(5, 4), ["i0"]),
}


def test_the_targets_are_the_new_events_and_those_held_out_before(tmp_path: Path) -> None:
    """Two are held out of each user: of the older events the newest two are learnt now."""
    _write(tmp_path, "all", _USERS)
    loader = _data(tmp_path, "all", train_since=_NEW)
    assert _targets(loader) == [
        ("back", ["i1", "i2", "i3"], ["i4"]),
        ("back", ["i4", "i5", "i6"], ["i5", "i6", "i7"]),
        ("here", ["i1", "i2", "i3"], ["i2", "i3", "i4"]),
        ("here", ["i4", "i5", "i6"], ["i5", "i6", "i7"]),
        ("once", ["i5", "i6"], ["i7"]),
    ]  # "gone" has no batch
    everything = _data(tmp_path, "all")._dataset
    assert (loader._dataset.item_counts() == everything.item_counts()).all()


def test_two_trainings_one_after_the_other_learn_each_target_once(tmp_path: Path) -> None:
    users = {"a": (walk(0, 9), walk(9, 8)), "b": (walk(4, 5), walk(9, 3)), "c": ([], walk(2, 7))}
    _write(tmp_path, "older", {user: (older, []) for user, (older, _) in users.items()})
    _write(tmp_path, "all", users)

    def asked(found: list[tuple[str, list[str], list[str]]]) -> list[tuple[str, str]]:
        return [(user, item) for user, _, items in found for item in items]

    before = asked(_targets(_data(tmp_path, "older", train_since=-1)))
    after = asked(_targets(_data(tmp_path, "all", train_since=_NEW)))
    assert sorted(before + after) == sorted(asked(_targets(_data(tmp_path, "all", train_since=-1))))


def test_older_windows_are_drawn_anew_for_the_share_asked_for(tmp_path: Path) -> None:
    users = {f"u{n}": (walk(n, 20), walk(20 + n, 3)) for n in range(8)}
    _write(tmp_path, "all", users)
    new = _targets(_data(tmp_path, "all", train_since=_NEW))
    assert len(new) == 8
    loader = _data(tmp_path, "all", train_since=_NEW, replay_share=1.5)
    torch.manual_seed(0)
    epochs = [_targets(loader) for _ in range(2)]
    drawn = []
    for found in epochs:
        assert len(found) == len(loader._dataset) == 20
        assert all(window in found for window in new)
        older = [window for window in found if window not in new]
        assert all(len(asked) == len(read) for _, read, asked in older)
        drawn.append(older)
    assert drawn[0] != drawn[1]


def _train(parent: Path, name: str, **more: Any) -> Path:
    """Train to the last epoch; the artifact's folder."""
    given = {
        **_SMALL, "data_path": str(parent), "artifact_dir": str(parent / "artifacts"),
        "checkpoint_dir": str(parent / "checkpoints"), "eval_step": 0, "ema_decay": 0.0,
    }  # fmt: skip
    artifact = train("LLMSeqRec", name, None, {**given, **more}).artifact
    assert artifact is not None
    return artifact


def _step(artifact: Path) -> list[int]:
    """How far along the cycle the best item lies from the only one met, for each."""
    best = load_scorer(artifact).top_k([[item] for item in CYCLE], 1).item_ids
    return [(CYCLE.index(top) - n) % len(CYCLE) for n, (top,) in enumerate(best)]


def test_new_events_alone_are_learnt(tmp_path: Path) -> None:
    """Everybody goes a step at a time, for long, and then three at a time."""
    leaps = {n: [CYCLE[(n + 32 + 3 * step) % 12] for step in range(9)] for n in range(12)}
    users = {f"u{n}": (walk(n, 30), leaps[n]) for n in range(12)}
    _write(tmp_path, "older", {user: (older, []) for user, (older, _) in users.items()})
    _write(tmp_path, "all", users)
    before = _train(tmp_path, "older", epochs=20)
    assert _step(before) == [1] * 12
    assert _step(_train(tmp_path, "all", epochs=20, warm_start=str(before))) == [1] * 12
    since = _train(tmp_path, "all", epochs=40, warm_start=str(before), train_since=_NEW + 2)
    assert _step(since) == [3] * 12


def test_what_nothing_trains_stays_and_the_order_of_ids_is_nothing(tmp_path: Path) -> None:
    """One batch an epoch and no dropout, so that only the order of sums differs."""
    plain = {
        "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "id_dropout_prob": 0.0,
        "train_batch_size": 999, "epochs": 5,
    }  # fmt: skip
    users = {f"u{n}": (walk(n, 8), walk(n + 8, 4)) for n in range(12)}
    _write(tmp_path, "older", {user: (older, []) for user, (older, _) in users.items()})
    _write(tmp_path, "all", users)
    _write(tmp_path, "turned", users, backward=True)
    for name in ("older", "all", "turned"):
        lines = ["item_id:token\ttitle:token_seq", *(f"{item}\tx" for item in [*CYCLE, "unmet"])]
        (tmp_path / name / f"{name}.item").write_text("\n".join(lines) + "\n")
    before = _train(tmp_path, "older", **plain)
    more = {**plain, "warm_start": str(before), "train_since": _NEW}
    states = {}
    for name in ("older", "all", "turned"):
        artifact = before if name == "older" else _train(tmp_path, name, **more)
        states[name] = _state(artifact)
    unmet = {name: ids["unmet"] for name, ids in states.items()}
    assert torch.equal(unmet["all"], unmet["older"])
    assert torch.equal(unmet["turned"], unmet["older"])
    assert list(states["all"]) != list(states["turned"])
    for item in CYCLE:
        assert (states["all"][item] - states["older"][item]).abs().max() > 0.01
        torch.testing.assert_close(states["all"][item], states["turned"][item], atol=1e-4, rtol=0)


def _state(artifact: Path) -> dict[str, torch.Tensor]:
    """ID vectors by external id, of the network that a later training starts from."""
    with safe_open(artifact / "training.safetensors", framework="pt") as file:
        items = json.loads(file.metadata()["items"])
        vectors = file.get_tensor("network.items.id_embedding.weight")[1:]
    return dict(zip(items, vectors, strict=True))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train_since": 1e9}, "train_since is 1000000000 and the newest event is of 1003: there is "
         "nothing new to learn.*unit of 'timestamp'"),
        ({"train_since": "yesterday"}, "train_since must be an instant.*got 'yesterday'"),
        ({"train_since": True}, "train_since must be an instant.*got True"),
        ({"train_since": float("nan")}, "train_since must be an instant.*got nan"),
        ({"train_since": _NEW, "warm_start": None}, "name its artifact by warm_start"),
        ({"train_since": _NEW, "replay_share": -0.5}, "replay_share must be at least 0"),
    ],
)  # fmt: skip
def test_bad_instants_are_told_before_training(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    _write(tmp_path, "all", {"u": (walk(0, 6), walk(6, 4))})
    with pytest.raises(ConfigError, match=message):
        _data(tmp_path, "all", **more)


def test_weights_that_do_not_fit_are_no_start_for_new_events_alone(tmp_path: Path) -> None:
    _write(tmp_path, "all", {f"u{n}": (walk(n, 6), walk(n + 6, 4)) for n in range(4)})
    before = _train(tmp_path, "all", epochs=0)
    more = {"warm_start": str(before), "train_since": _NEW, "hidden_size": 8}
    with pytest.raises(ConfigError, match="starts cold: hidden_size was 16. Leave train_since out"):
        _train(tmp_path, "all", epochs=1, **more)
