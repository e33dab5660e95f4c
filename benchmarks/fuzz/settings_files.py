"""Targets: settings, and the atomic files that training reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.shapes import damaged, yaml_documents
from benchmarks.fuzz.target import Target, file_target

_ITEM = b'item_id:token\ttitle:token_seq\tyear:float\ni1\tA film\t1990\ni2\tA "b\xc3\xbcok\t\n'
_INTER = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
    f"u{user}\ti{(user + step) % 4}\t{step}\n" for user in range(4) for step in range(4)
)


def night(folder: Path) -> Target:
    """The night's settings, all sections of them."""
    from recbole_llm.champion import _continuation, _cut, _first_day
    from recbole_llm.config_files import config_path, load_yaml
    from recbole_llm.judge import promotion_rules
    from recbole_llm.retention import check_retention, expire
    from recbole_llm.warehouse import Warehouse
    from spark_jobs.config import load_night_config

    path = folder / "nightly.yaml"
    valid = load_yaml(config_path(".", "nightly"))
    valid["first_day"] = "1990-01-01"

    def read() -> None:
        content = load_yaml(path)
        expire(Warehouse(folder), check_retention(content.get("retention")), "2024-05-01")
        rules = promotion_rules(content.get("promotion"), path)
        days, _ = _continuation(content.get("continuation"), path)
        champion = {"data_cut": "2024-05-01", "model_version": "m"}
        _first_day(_cut("2024-05-03", champion, rules), days, champion)
        load_night_config(path)

    return _yaml_target(path, read, valid)


def pretrain(folder: Path) -> Target:
    """A file of settings for pre-training."""
    from recbole_llm.config_files import config_path, load_yaml
    from recbole_llm.pretrain.options import pretrain_options

    path = folder / "pretrain.yaml"
    valid = load_yaml(config_path(".", "pretrain"))
    return _yaml_target(path, lambda: pretrain_options([str(path)]), valid)


def encoder(folder: Path) -> Target:
    """A file that says which encoder is run and how."""
    from recbole_llm.encoder import find_encoder, fingerprint, locate_weights

    model, path = folder / "model", folder / "encoder.yaml"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"")
    valid = {"model": str(model), "pooling": "mean", "max_tokens": 128, "batch_size": 16,
             "dtype": "float32", "adapter": None}  # fmt: skip

    def read() -> None:
        spec = find_encoder(str(path))
        if spec.model == str(model):  # others would be looked for on the hub
            fingerprint(locate_weights(spec), spec)

    return _yaml_target(path, read, valid)


def flags(folder: Path) -> Target:
    """``--key=value`` flags, one a line."""
    from recbole_llm.config_files import flags_as_dict

    def read(data: bytes) -> None:
        flags_as_dict(data.decode("utf-8", "surrogateescape").split("\n"))

    seeds = [b"--epochs=3\n--learning_rate=1e-3\n--metrics=[Recall, NDCG]", b"--topk={a: [1, ~]}"]
    shaped = yaml_documents({"a": 1}).map(lambda text: b"--a=" + text.partition(b": ")[2])
    return Target(read, seeds, st.one_of(shaped, *map(damaged, seeds)))


def model_settings(folder: Path) -> Target:
    """A config file of RecBole's: values of the model's keys and of RecBole's own."""
    from recbole_llm.config_files import config_path, load_yaml
    from recbole_llm.options import model_options
    from recbole_llm.train import build_config

    _write_data(folder)
    path = folder / "model.yaml"
    valid = load_yaml(config_path("model", "LLMSeqRec"))
    valid |= {
        "data_path": str(folder), "epochs": 1, "train_batch_size": 8, "learning_rate": 0.001, "seed": 1,
        "topk": [10], "valid_metric": "NDCG@10", "metrics": ["Recall", "NDCG"], "use_gpu": False,
        "eval_args": {
            "split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"
        },
        "train_neg_sample_args": None, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "show_progress": False, "item_inter_num_interval": "[0,inf)", "field_separator": "\t",
    }  # fmt: skip

    def read() -> None:
        model_options(build_config("LLMSeqRec", "small", [str(path)]))

    return _yaml_target(path, read, valid)


def text_columns(folder: Path) -> Target:
    """An ``.item`` file, read as text."""
    from recbole_llm.item_text import read_text_columns, render_texts

    path = folder / "small.item"
    path.write_bytes(_ITEM)

    def read() -> None:
        render_texts(read_text_columns(path, "item_id", "\t", "utf-8"), None)

    return file_target(path, read)


def atomic_file(name: str) -> Callable[[Path], Target]:
    """An atomic file, read by RecBole and by us to what a model trains on."""

    def target(folder: Path) -> Target:
        from recbole_llm.train import build_config, build_data

        _write_data(folder)
        given: dict[str, Any] = {"data_path": str(folder), "encoder": "tfidf", "show_progress": False,
                                 "use_gpu": False, "dislike_loss_weight": 0.5}  # fmt: skip

        def read() -> None:
            dataset, _ = build_data(build_config("LLMSeqRec", "small", None, given))
            dataset.text_vectors("cpu")
            dataset.disliked()

        return file_target(folder / "small" / name, read)

    return target


def _write_data(folder: Path) -> None:
    data = folder / "small"
    data.mkdir()
    (data / "small.inter").write_text(_INTER)
    (data / "small.item").write_bytes(_ITEM)
    (data / "small.user").write_text("user_id:token\tdisliked_ids:token_seq\nu1\ti1 i2\n")


def _yaml_target(path: Path, read: Callable[[], object], valid: dict[str, Any]) -> Target:
    import yaml

    path.write_text(yaml.safe_dump(valid), encoding="utf-8")
    return file_target(path, read, lambda _: yaml_documents(valid))


TARGETS: dict[str, Callable[[Path], Target]] = {
    "nightly.yaml": night,
    "pretrain.yaml": pretrain,
    "encoder.yaml": encoder,
    "flags": flags,
    "model settings": model_settings,
    ".item as text": text_columns,
    ".inter": atomic_file("small.inter"),
    ".item": atomic_file("small.item"),
    ".user": atomic_file("small.user"),
}
