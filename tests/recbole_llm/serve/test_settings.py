"""What is wrong with the service's settings is told before it listens."""

import os
from pathlib import Path

import pytest

from recbole_llm.cli import main as cli
from recbole_llm.config_files import config_path
from recbole_llm.errors import ConfigError
from recbole_llm.scoring import write_artifact
from recbole_llm.serve.guards import KEYS, KEYS_FILE, read_api_keys
from recbole_llm.serve.server import serve
from recbole_llm.serve.settings import ServeSettings, load_serve_settings
from tests.data import CYCLE, random_artifact


def test_the_shipped_settings_are_the_defaults() -> None:
    assert load_serve_settings(config_path(".", "serve")) == ServeSettings()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("batch_size: 0", "batch_size must be a number above 0"),
        ("threads: true", "threads must be a number above 0 and up to 1000000, got True"),
        ("threads: 1.5", "got 1.5"),
        ("refresh_s: .nan", "refresh_s must be"),
        ("more: 1", r"unknown keys \['more'\], missing keys \[\]"),
    ],
)
def test_a_wrong_setting(tmp_path: Path, line: str, told: str) -> None:
    name = line.partition(":")[0]
    lines = config_path(".", "serve").read_text().splitlines()
    kept = [each for each in lines if not each.startswith(f"{name}:")]
    (tmp_path / "serve.yaml").write_text("\n".join([*kept, line]))
    with pytest.raises(ConfigError, match=told):
        load_serve_settings(tmp_path / "serve.yaml")


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not read_api_keys()
    path = tmp_path / "keys"
    path.write_text(f"{'a' * 16}\n{'b' * 16}\n")
    monkeypatch.setenv(KEYS_FILE, str(path))
    with pytest.raises(ConfigError, match="others may read"):
        read_api_keys()
    os.chmod(path, 0o600)
    keys = read_api_keys()
    assert [keys.opens(key) for key in ("a" * 16, "b" * 16, "a" * 15, "é", None)] == [
        True, True, False, False, False
    ]  # fmt: skip
    path.write_text("\n")
    with pytest.raises(ConfigError, match=f"{KEYS_FILE} is set and gives no key; unset it"):
        read_api_keys()
    monkeypatch.setenv(KEYS, "c" * 16)
    assert read_api_keys().opens("c" * 16)
    assert not read_api_keys().opens("a" * 16)
    monkeypatch.setenv(KEYS, "short")
    with pytest.raises(ConfigError, match="at least 16 characters") as error:
        read_api_keys()
    assert "short" not in str(error.value)
    monkeypatch.delenv(KEYS_FILE)
    for nothing in ("", " "):
        monkeypatch.setenv(KEYS, nothing)
        with pytest.raises(ConfigError, match=f"{KEYS} is set and gives no key; unset it"):
            read_api_keys()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_nobody_else_may_ask_without_a_key(tmp_path: Path, host: str) -> None:
    artifact = write_artifact(random_artifact(CYCLE), tmp_path)
    with pytest.raises(ConfigError, match=f"without a key everybody who reaches {host}"):
        serve(None, artifact, ServeSettings(), host, 0)


def test_there_has_to_be_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["serve", "--warehouse", str(tmp_path), "--port", "0"]) == 4
    assert "no champion in" in capsys.readouterr().err
    assert cli(["serve", "--artifact", str(tmp_path), "--port", "0"]) == 5
    assert "no artifact at" in capsys.readouterr().err
