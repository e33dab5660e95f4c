"""Settings that lie on top of others."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from recbole_llm.config_files import config_path, load_layers, load_settings, load_yaml
from recbole_llm.errors import ConfigError


def test_what_a_file_does_not_say_is_as_its_base_has_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: nightly\nk: 3\ntraining: {epochs: 1, seed: 2}\nmarkets: [de]\n")
    night = load_yaml(config_path(".", "nightly"))
    assert load_layers(path) == {
        **night, "k": 3, "training": {**night["training"], "epochs": 1, "seed": 2}, "markets": ["de"]
    }  # fmt: skip
    path.write_text("k: 3\n")
    assert load_layers(path) == {"k": 3}


@pytest.mark.parametrize("base", ["Nightly", "[nightly]", "../nightly", "~", "domains/news"])
def test_a_base_is_a_file_of_configs(tmp_path: Path, base: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {base}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: base must be one of \['nightly', .*got "):
        load_layers(path)


@dataclass(frozen=True)
class _Port:
    port: int


def test_a_base_of_another_kind_is_no_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: nightly\nport: 1\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: unknown keys \['band_nights', "):
        load_settings(path, _Port)
