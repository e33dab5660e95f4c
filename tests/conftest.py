"""Fixtures that several folders of tests share."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_llm.config_files import load_yaml
from recbole_llm.scoring import write_artifact
from recbole_llm.warehouse import Warehouse, replace_json
from tests.data import CYCLE, random_artifact, write_events
from tests.media import PICTURE_ENCODERS, SOUND_ENCODERS, save_encoder

HOME = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with most slow tests first, so that at the end no worker waits for another."""
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def _quiet_command_line() -> Iterator[None]:
    """RecBole takes ``--key=value`` from any command line, pytest's own too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tests"])
        yield


@pytest.fixture(autouse=True)
def _quiet_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RecBole writes logs where it runs, and a command leaves it the flags of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tests"])


@pytest.fixture(scope="session")
def tiny_encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of real architectures, saved as any Hugging Face model is.

    ``bert`` is a sentence encoder's; ``qwen3`` is that of configs/encoder/qwen3-embedding-0.6b.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BertConfig,
        BertModel,
        PreTrainedTokenizerFast,
        Qwen3Config,
        Qwen3Model,
    )

    words = "[PAD] [UNK] [MASK] Film film of the cycle A a nobody has met".split() + CYCLE  # noqa: SIM905
    backend = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )
    sizes: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    root = tmp_path_factory.mktemp("encoders")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = {
            "bert": BertModel(BertConfig(**sizes)),
            "qwen3": Qwen3Model(Qwen3Config(**sizes, num_key_value_heads=2, head_dim=8)),
        }
    for name, model in built.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: root / name for name in built}


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random text networks of many architectures, by name; see ``tests/networks.py``."""
    from tests.networks import NETWORKS, save_network

    root = tmp_path_factory.mktemp("networks")
    return {name: save_network(root / name, name) for name in NETWORKS}


@pytest.fixture(scope="session")
def media_encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of real vision and audio architectures, by name; see ``tests/media.py``."""
    root = tmp_path_factory.mktemp("media-encoders")
    names = (*PICTURE_ENCODERS, *SOUND_ENCODERS, "vit-classifier", "mae")
    return {name: save_encoder(name, root / name) for name in names}


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """One real Spark session on two cores for all tests."""
    from spark_jobs.config import load_night_config
    from spark_jobs.job import start_spark

    with pytest.MonkeyPatch.context() as patch:
        # Not to tell the JVM the line of each column, which takes several calls for each.
        patch.setenv(
            "PYSPARK_SUBMIT_ARGS",
            "--conf spark.python.sql.dataFrameDebugging.enabled=false pyspark-shell",
        )
        session = start_spark("tests", load_night_config(HOME / "configs" / "nightly.yaml"))
    # To compile a plan, or to plan it anew after each stage, takes longer than a few rows do. Jobs that
    # tests start as processes of their own do as they do in production.
    session.conf.set("spark.sql.codegen.wholeStage", "false")
    session.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    session.conf.set("spark.sql.adaptive.enabled", "false")
    session.conf.set("spark.sql.dataFrameQueryContext.enabled", "false")
    yield session
    session.stop()


def make_night_config(folder: Path) -> Path:
    """The shipped settings with plain user ids and three recommendations a user in two files."""
    text = (HOME / "configs" / "nightly.yaml").read_text().replace("k: 20 ", "k: 3 ")
    text = text.replace("user_ids: pseudonym ", "user_ids: plain ")
    path = folder / "nightly.yaml"
    path.write_text(text.replace("partitions: 4 ", "partitions: 2 "))
    return path


def night_runner(spark: Any, root: Path, config_file: Path) -> Any:
    """A function that runs steps of a day's night on a warehouse, with settings changed for good."""
    from spark_jobs.config import load_night_config
    from spark_jobs.job import Job
    from spark_jobs.prepare_features import prepare
    from spark_jobs.publish import publish
    from spark_jobs.score_users import score

    def run(
        day: str = "2024-05-02", steps: Any = (prepare, score, publish), **settings: Any
    ) -> Warehouse:
        config_file.write_text(yaml.safe_dump({**load_yaml(config_file), **settings}))
        config = load_night_config(config_file)
        for step in steps:
            step(Job(spark, Warehouse(root), config, day))
        return Warehouse(root)

    return run


@pytest.fixture
def small_night_config(tmp_path: Path) -> Path:
    """Settings of a night for the small warehouse."""
    return make_night_config(tmp_path)


@pytest.fixture
def small_warehouse(tmp_path: Path) -> Path:
    """Three days of raw events, a catalogue of 20 items and a champion that knows 19 of them."""
    return make_small_warehouse(tmp_path / "warehouse")


@pytest.fixture(scope="session")
def prepared_once(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``prepared_warehouse`` is a copy of; to be read only."""
    from spark_jobs.prepare_features import prepare

    folder = tmp_path_factory.mktemp("prepared")
    root = make_small_warehouse(folder / "warehouse")
    run = night_runner(spark, root, make_night_config(folder))
    for day in ("2024-05-01", "2024-05-02"):
        run(day, steps=(prepare,))
    return root


@pytest.fixture
def prepared_warehouse(prepared_once: Path, tmp_path: Path) -> Path:
    """A copy of ``small_warehouse`` with the features of its first two days, most of a night's time."""
    return Path(shutil.copytree(prepared_once, tmp_path / "prepared"))


def make_small_warehouse(root: Path) -> Path:
    """Write what ``small_warehouse`` promises to ``root``."""
    warehouse = Warehouse(root)
    items = [f"i{n}" for n in range(20)]
    noon = 1_714_564_800  # 2024-05-01T12:00:00Z
    for offset, day in enumerate(("2024-05-01", "2024-05-02", "2024-05-03")):
        rows: list[dict[str, object] | str] = [
            {
                "user_id": f"u{user}",
                "item_id": items[(user + 4 * offset + step) % 20],
                "timestamp": noon + 86_400 * offset + 60 * step,
            }
            for user in range(10)
            for step in range(4)
        ]
        rows += ["{broken", {"user_id": "new", "item_id": "unheard", "timestamp": noon}]
        write_events(warehouse.raw_events, day, rows)
    warehouse.raw_items.mkdir(parents=True)
    lines = [f'{{"item_id": "{item}", "title": "Title of {item}"}}\n' for item in items]
    (warehouse.raw_items / "items.jsonl").write_text("".join(lines))
    artifact = write_artifact(random_artifact(items[:19]), warehouse.artifacts)
    replace_json(
        warehouse.champion,
        {"model_version": artifact.name, "metrics": {"test": {"ndcg@10": 0.1}}},
    )
    return root
