import json
import re
import sys
from pathlib import Path

import pytest

from recbole_llm.cli import main
from recbole_llm.encoder import find_encoder
from recbole_llm.run_flags import check_flags
from recbole_llm.scoring import load_artifact, write_artifact
from recbole_llm.warehouse import Warehouse
from tests.data import random_artifact, write_cycle


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    commands = "run feed train nightly airflow lookup explain sync sql compress"
    for command in commands.split():
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


@pytest.mark.parametrize(
    ("command", "flag", "told"),
    [
        ("run", "--nosuchkey=1", "unknown config key 'nosuchkey' (value '1')"),
        ("run", "--topk", "flags are written --key=value, with one equals sign, got '--topk'"),
        ("run", "--item_text={title}={genre}", "with one equals sign, got '--item_text="),
        ("transfer", "--model=LinearSeqRec", "--model cannot be set here"),
        ("transfer", "--nproc=2", "--nproc cannot be set here"),
    ],
)
def test_a_flag_that_nobody_would_read(
    capsys: pytest.CaptureFixture[str], command: str, flag: str, told: str
) -> None:
    more = ["--dataset=cycle", "--from=x"] if command == "transfer" else []
    assert main([command, *more, flag]) == 2
    assert told in capsys.readouterr().err


def test_a_key_of_other_models_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_flags(["--embedding_size=9", "--epochs=1", "--temperature=1"], "LLMSeqRec")
    assert [record.getMessage() for record in caplog.records] == [
        "--embedding_size is of other models of RecBole: LLMSeqRec does not read it"
    ]
    caplog.clear()
    check_flags(["--embedding_size=9", "--tail_ratio=0.1"], "GRU4Rec")
    assert not caplog.records
    check_flags(["--use_filter=True"], "FEARec")  # read by its code alone
    assert "--use_filter stands in no settings of FEARec" in caplog.text


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


@pytest.mark.slow
def test_compress(
    tiny_encoders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bert, small = str(tiny_encoders["bert"]), tmp_path / "small"
    assert main(["compress", "encoder", bert, "--out", str(small), "--layers", "1"]) == 0
    assert find_encoder(str(small)).max_tokens == 128
    assert main(["compress", "encoder", bert, "--out", str(small)]) == 2
    assert "small exists; name a new folder" in capsys.readouterr().err
    path = write_artifact(random_artifact(["a", "b"]), tmp_path / "artifacts")
    assert main(["compress", "artifact", str(path)]) == 0
    (smaller,) = set(path.parent.iterdir()) - {path}
    assert load_artifact(smaller).stored == "int6"
    assert main(["compress", "artifact", str(smaller), "--matrix", "int8"]) == 5
    assert "is compressed already" in capsys.readouterr().err
    assert main(["compress", "onnx", str(smaller), "--out", str(tmp_path / "states.onnx")]) == 0
    assert (tmp_path / "states.onnx").is_file()


@pytest.mark.parametrize(
    "command",
    [["lookup", "--user", "1"], ["train"], ["expire"], ["rollback"], ["explain", "--user", "1"]],
)
def test_a_day_that_is_none(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--day", "2024-5-1"]) == 2
    assert "a day is written YYYY-MM-DD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["lookup", "--user", "1", "--k", "0"], "--k: must be a whole number at least 1, got '0'"),
        (
            ["explain", "--user", "1", "--k", "-2"],
            "--k: must be a whole number at least 1, got '-2'",
        ),
        (["lookup", "--user", "1", "--k", "x"], "--k: must be a whole number at least 1, got 'x'"),
        (["serve", "--port", "99999"], "--port: must be a whole number in .0, 65535., got '99999'"),
    ],
)
def test_numbers_that_flags_do_not_take(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2
    assert re.search(told, capsys.readouterr().err)
