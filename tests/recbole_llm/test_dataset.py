"""Our rows against RecBole's own, on the same files."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data.dataset import SequentialDataset

from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.model import LLMSeqRec
from recbole_llm.train import build_config, build_data
from tests.data import CYCLE, walk, write_atomic, write_cycle


def _config(parent: Path, name: str, **settings: Any) -> Config:
    return build_config(
        "LLMSeqRec", name, None, {"data_path": str(parent), "item_repr": "id", **settings}
    )


def _rows(dataset: Any) -> list[tuple[str, list[str], str]]:
    """(user, sequence, target) by external ids."""
    rows = dataset[torch.arange(len(dataset))]
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    return [
        (users[user], [items[i] for i in seq[:length]], items[target])
        for user, seq, length, target in zip(
            rows["user_id"], rows["item_id_list"], rows["item_length"], rows["item_id"], strict=True
        )
    ]


@pytest.mark.parametrize(
    "split", [{"LS": "valid_and_test"}, {"LS": "valid_only"}, {"RS": [0.6, 0.2, 0.2]}]
)
def test_evaluation_rows_equal_recboles(tmp_path: Path, split: dict[str, Any]) -> None:
    write_cycle(tmp_path)
    arguments = {"split": split, "order": "TO", "mode": "full"}
    config = _config(tmp_path, "cycle", MAX_ITEM_LIST_LENGTH=5, eval_args=arguments)
    ours = LLMSeqRecDataset(config).build()
    theirs = SequentialDataset(config).build()
    for own, stock in zip(ours[1:], theirs[1:], strict=True):
        assert _rows(own) == _rows(stock)
    assert len(_rows(ours[1])) > 0


def test_windows_hold_every_training_target_once(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    config = _config(tmp_path, "cycle", MAX_ITEM_LIST_LENGTH=5)
    train = LLMSeqRecDataset(config).build()[0]
    stock = SequentialDataset(config).build()[0]
    predicted = [
        (user, target)
        for user, seq, last in _rows(train)
        for target in [*seq[1:], last]
    ]  # fmt: skip
    assert sorted(predicted) == sorted((user, target) for user, _, target in _rows(stock))
    assert len(train) < len(stock) / 2
    assert train.item_counter == stock.item_counter


def test_windows_by_hand(tmp_path: Path) -> None:
    write_atomic(tmp_path, "one", {"u": walk(0, 10), "v": ["i3", "i4"], "w": ["i5"]})
    train, valid, test = LLMSeqRecDataset(_config(tmp_path, "one", MAX_ITEM_LIST_LENGTH=3)).build()
    assert sorted(_rows(train)) == [
        ("u", ["i0"], "i1"),
        ("u", ["i1", "i2", "i3"], "i4"),
        ("u", ["i4", "i5", "i6"], "i7"),
        ("v", ["i3"], "i4"),
    ]
    counts = dict(zip(train.field2id_token["item_id"], train.item_counts(), strict=True))
    assert counts == {
        "[PAD]": 0, **dict.fromkeys(["i0", "i1", "i2", "i5", "i6", "i7"], 1), "i3": 2, "i4": 2,
        "i8": 0, "i9": 0,
    }  # fmt: skip
    assert _rows(valid) == [("u", ["i5", "i6", "i7"], "i8")]
    assert _rows(test) == [("u", ["i6", "i7", "i8"], "i9")]


def test_ties_in_time_keep_the_files_order(tmp_path: Path) -> None:
    folder = write_atomic(tmp_path, "ties", {})
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u\t{item}\t7" for item in ("c", "a", "d", "b")]
    (folder / "ties.inter").write_text("\n".join(lines) + "\n")
    test = LLMSeqRecDataset(_config(tmp_path, "ties")).build()[2]
    assert _rows(test) == [("u", ["c", "a", "d"], "b")]


def test_items_without_interactions_and_without_text(tmp_path: Path) -> None:
    write_atomic(
        tmp_path,
        "some",
        {"u": ["a", "b", "c", "d"]},
        {"cold": "A cold film", "a": 'A "film', "b": ""},
    )
    dataset = LLMSeqRecDataset(_config(tmp_path, "some", item_repr="text"))
    texts = dict(zip(dataset.item_tokens(), dataset.item_texts(), strict=True))
    assert texts == {
        "[PAD]": "", "a": 'A "film', "b": "", "c": "", "d": "", "cold": "A cold film"
    }  # fmt: skip
    assert len(_rows(dataset.build()[2])) == 1  # no interaction is lost


def test_items_without_text_get_the_mean_and_are_counted(
    tmp_path: Path, tiny_encoders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    texts = {item: f"film of the cycle {'a ' * n}" for n, item in enumerate(CYCLE)}
    write_atomic(tmp_path, "some", {"u": walk(0, 12)}, {**texts, "i0": "", "i5": ""})
    config = _config(
        tmp_path, "some", item_repr="text", encoder=str(tiny_encoders["bert"]),
        text_cache=str(tmp_path / "cache.sqlite"),
    )  # fmt: skip
    dataset = LLMSeqRecDataset(config)
    vectors = dataset.text_vectors("cpu")
    zero = [dataset.item_tokens()[row] for row in np.flatnonzero((vectors == 0).all(1))]
    assert sorted(zero) == ["[PAD]", "i0", "i5"]
    assert "2 of 12 items have no text; each gets the mean text vector" in caplog.text


def test_no_item_file(tmp_path: Path) -> None:
    write_atomic(tmp_path, "bare", {"u": walk(0, 6)})
    with pytest.raises(DataError, match="no item text: .*bare.item is absent .*--item_repr=id"):
        LLMSeqRecDataset(_config(tmp_path, "bare", item_repr="id+text"))


def test_no_time(tmp_path: Path) -> None:
    folder = write_atomic(tmp_path, "timeless", {})
    (folder / "timeless.inter").write_text("user_id:token\titem_id:token\nu\ta\nu\tb\n")
    with pytest.raises(DataError, match="needs the time field 'timestamp'"):
        LLMSeqRecDataset(_config(tmp_path, "timeless")).build()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hiden_size": 8}, "unknown config key 'hiden_size' .*did you mean 'hidden_size'"),
        ({"item_repr": "ids"}, "item_repr must be id.text, id or text .* got 'ids'"),
        ({"hidden_size": 50, "n_heads": 4}, "hidden_size must divide by n_heads, got 50 and 4"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob must be in \[0, 1\)"),
        ({"n_layers": True}, "n_layers must be at least 1 .int., got True"),
        ({"loss_type": "BPR"}, "loss_type must be CE"),
        ({"train_neg_sample_args": {"distribution": "uniform"}}, "train_neg_sample_args must be ~"),
    ],
)
def test_bad_settings(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    write_cycle(tmp_path)
    with pytest.raises(ConfigError, match=message):
        LLMSeqRecDataset(_config(tmp_path, "cycle", **setting))


def test_flags_of_the_program_that_recbole_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_cycle(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "--verbosity=3"])
    _config(tmp_path, "cycle")
    assert "flag --verbosity is neither RecBole's nor LLMSeqRec's: ignored" in caplog.text
    monkeypatch.setattr(sys, "argv", ["program", "--hidden_sise=8"])
    with pytest.raises(ConfigError, match="did you mean 'hidden_size'"):
        _config(tmp_path, "cycle")


def _rated(folder: Path) -> None:
    """The cycle with ratings from 0 to 4, and items with a genre and a year."""
    write_cycle(folder)
    path = folder / "cycle" / "cycle.inter"
    head, *rows = path.read_text().splitlines()
    rows = [f"{row}\t{n % 5}" for n, row in enumerate(rows)]
    path.write_text("\n".join([f"{head}\trating:float", *rows]) + "\n")
    path = path.with_suffix(".item")
    head, *rows = path.read_text().splitlines()
    rows = [f"{row}\tdrama\t{1990 + n}" for n, row in enumerate(rows)]
    path.write_text("\n".join([f"{head}\tgenre:token\tyear:float", *rows]) + "\n")


@pytest.mark.parametrize("model", ["LLMSeqRec", "SASRec"])
def test_what_filters_read_is_loaded(tmp_path: Path, model: str) -> None:
    _rated(tmp_path)
    n = {}
    for interval in (None, {"rating": "[2,inf)"}):
        given = {"data_path": str(tmp_path), "val_interval": interval}
        n[str(interval)] = len(build_data(build_config(model, "cycle", None, given))[0].inter_feat)
    all_rows, some = n.values()
    assert 0.4 * all_rows < some < 0.7 * all_rows


def test_which_item_texts_are_read(tmp_path: Path) -> None:
    _rated(tmp_path)
    inter = ["user_id", "item_id", "timestamp"]

    def text(**settings: Any) -> str:
        return LLMSeqRecDataset(_config(tmp_path, "cycle", **settings)).item_texts()[1]

    whole = text()
    assert whole.endswith(". drama")
    title = whole.removesuffix(". drama")
    assert text(load_col={"inter": inter, "item": ["item_id", "title", "year"]}) == title
    assert text(load_col={"inter": inter, "item": "*"}) == whole
    assert text(unload_col={"item": ["genre"]}) == title
    path = tmp_path / "cycle" / "cycle.item"
    path.write_text("\ufeff" + path.read_text())
    assert text(load_col={"inter": inter, "item": ["item_id", "title", "year"]}) == title
    with pytest.raises(ConfigError, match="names the item field 'nosuch', and .* has the fields"):
        text(load_col={"inter": inter, "item": ["item_id", "nosuch"]})
    with pytest.raises(ConfigError, match="'year' is not of them; name it there, or filter"):
        text(val_interval={"year": "[2000,inf)"})


@pytest.mark.parametrize("key", ["save_dataset", "dataloaders_save_path"])
def test_no_pickle_of_an_earlier_run_is_made_or_read(tmp_path: Path, key: str) -> None:
    write_cycle(tmp_path)
    with pytest.raises(ConfigError, match=f"{key}: RecBole would read the data set from a pickle"):
        LLMSeqRecDataset(_config(tmp_path, "cycle", **{key: True}))


def test_model_and_data_set_have_one_config(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    dataset = LLMSeqRecDataset(_config(tmp_path, "cycle", item_repr="id"))
    other = _config(tmp_path, "cycle", item_repr="id", hidden_size=32)
    LLMSeqRecDataset(other)
    with pytest.raises(ConfigError, match="made by other settings than the model's"):
        LLMSeqRec(other, dataset.build()[0])


def test_settings_of_other_recbole_models_are_let_pass(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    assert _config(tmp_path, "cycle", embedding_size=32)["embedding_size"] == 32


@pytest.mark.parametrize("field", ["item", "user"])
def test_ids_that_pandas_takes_for_none_are_ids(tmp_path: Path, field: str) -> None:
    odd = ["NA", "null", "None", "nan", ""]
    items = [*odd, "a", "b"] if field == "item" else list("abcdefg")
    users = odd if field == "user" else [f"u{n}" for n in range(5)]
    sequences = {user: items[n:] + items[:n] for n, user in enumerate(users)}
    write_atomic(tmp_path, "odd", sequences, {})
    dataset = LLMSeqRecDataset(_config(tmp_path, "odd"))
    known = {*users[:5], *items} - {""}
    names = {*dataset.field2id_token["user_id"][1:], *dataset.field2id_token["item_id"][1:]}
    assert names == known
    assert dataset.inter_num == 35 - (5 if field == "item" else 7)  # but those with no id
