import json
import sys
from pathlib import Path

import pytest

from recbole_llm.cli import main
from recbole_llm.scoring import load_artifact
from recbole_llm.warehouse import Warehouse
from tests.data import write_cycle


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for command in ("run", "feed", "train", "nightly", "airflow", "lookup", "sync", "sql"):
        assert f"    {command} " in out


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["lookup", "--user", "1", "--days", "x"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --days x" in capsys.readouterr().err


def test_run_takes_recboles_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cycle(tmp_path)
    (tmp_path / "a.yaml").write_text("hidden_size: 8\nn_layers: 1\nepochs: 9\n")
    (tmp_path / "b.yaml").write_text("epochs: 1\n")
    flags = [
        "--dataset=cycle", f"--data_path={tmp_path}", "--item_repr=id",
        f"--config_files={tmp_path}/a.yaml {tmp_path}/b.yaml", f"--artifact_dir={tmp_path}/out",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["recbole_llm", *flags])
    assert main(["run", *flags]) == 0
    artifact = load_artifact(next((tmp_path / "out").iterdir()))
    assert artifact.sequence_config.hidden_size == 8
    monkeypatch.setattr(sys, "argv", ["recbole_llm", *flags, "--hiden_size=4"])
    assert main(["run", *flags, "--hiden_size=4"]) == 2
    assert "did you mean 'hidden_size'?" in capsys.readouterr().err


def test_nightly_for_a_day_that_was_not_delivered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw" / "events" / "ds=2024-05-01").mkdir(parents=True)
    assert main(["nightly", "--warehouse", str(tmp_path), "--day", "2024-05-02"]) == 4
    assert "found 1 days, 2024-05-01 to 2024-05-01" in capsys.readouterr().err


def test_a_champion_that_is_there_stands(
    small_warehouse: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = json.loads(Warehouse(small_warehouse).champion.read_text())
    command = ["train", "--warehouse", str(small_warehouse), "--day", "2024-05-01", "--if-none"]
    assert main(command) == 0
    assert f"champion {before['model_version']} stands" in caplog.text
