"""Stock RecBole with our model's name, each in a process of its own, as a user has it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import write_cycle

_SETTINGS = """
settings = dict(
    data_path={data_path!r}, item_repr="id", hidden_size=8, n_layers=1, inner_size=8, epochs=3,
    learning_rate=0.01, MAX_ITEM_LIST_LENGTH=5, train_batch_size=16, show_progress=False,
)
"""


def _run(code: str, folder: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", _SETTINGS.format(data_path=str(folder)) + code],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_cycle(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_run_recbole_to_the_test_result(folder: Path) -> None:
    out = _run(
        "import recbole_llm, json\n"
        "from recbole.quick_start import run_recbole\n"
        "result = run_recbole('LLMSeqRec', 'cycle', config_dict=settings, saved=True)\n"
        "print('RESULT', json.dumps(result['test_result']))\n",
        folder,
    )
    result = json.loads(out.split("RESULT ")[1])
    assert 0 < result["ndcg@10"] <= 1
    assert [path.suffix for path in (folder / "saved").iterdir()] == [".safetensors"]


@pytest.mark.parametrize("name", ["LLMSeqRec", "LinearSeqRec"])
def test_config_dataset_and_trainer_by_name(folder: Path, name: str) -> None:
    out = _run(
        f"NAME = {name!r}\n"
        "import recbole_llm, sys\n"
        "assert 'torch' not in sys.modules and 'recbole' not in sys.modules\n"
        "from recbole.config import Config\n"
        "from recbole.data import create_dataset\n"
        "from recbole.utils import get_model, get_trainer, ModelType\n"
        "config = Config(model=NAME, dataset='cycle', config_dict=settings)\n"
        "dataset = create_dataset(config)\n"
        "print('GOT', get_model(NAME).__name__, type(dataset).__name__,\n"
        "      get_trainer(config['MODEL_TYPE'], NAME).__name__,\n"
        "      config['hidden_size'], config['n_heads'], config['valid_metric'])\n",
        folder,
    )
    assert f"GOT {name} LLMSeqRecDataset LLMSeqRecTrainer 8 2 NDCG@10" in out


def test_what_recbole_would_ignore_is_an_error(folder: Path) -> None:
    out = _run(
        "import recbole_llm\n"
        "from recbole.config import Config\n"
        "from recbole.data import create_dataset\n"
        "from recbole_llm.errors import ConfigError\n"
        "settings |= {'warm_start': 'artifacts/a', 'resume_dir': 'r', 'transfer_from': None}\n"
        "try:\n"
        "    create_dataset(Config(model='LLMSeqRec', dataset='cycle', config_dict=settings))\n"
        "except ConfigError as error:\n"
        "    print('TOLD', error)\n",
        folder,
    )
    assert "TOLD RecBole's own entry points would ignore resume_dir, warm_start: run" in out


@pytest.mark.slow
def test_hyper_parameter_tuning(folder: Path) -> None:
    out = _run(
        "import recbole_llm, json\n"
        "from recbole.quick_start import objective_function\n"
        "from recbole.trainer import HyperTuning\n"
        "import yaml\n"
        "yaml.safe_dump({**settings, 'model': 'LLMSeqRec', 'dataset': 'cycle'},\n"
        "               open('fixed.yaml', 'w'))\n"
        "tuning = HyperTuning(objective_function, algo='exhaustive', early_stop=10, max_evals=2,\n"
        "                     params_dict={'choice': {'learning_rate': [0.0, 0.01]}},\n"
        "                     fixed_config_file_list=['fixed.yaml'])\n"
        "tuning.run()\n"
        "print('BEST', json.dumps(tuning.best_params))\n",
        folder,
    )
    assert json.loads(out.split("BEST ")[1].splitlines()[0]) == {"learning_rate": 0.01}
