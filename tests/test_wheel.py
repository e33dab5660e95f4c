"""The wheel carries what a machine without the checkout needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HOME


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("recbole_llm", "spark_jobs", "configs"):
        shutil.copytree(HOME / name, source / name)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOME / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), "installed"], check=True)
    code = (
        "import recbole_llm, spark_jobs.publish\n"
        "from spark_jobs.report import render_list\n"
        "assert '<h1>Nights</h1>' in render_list([], {})\n"
        "from recbole_llm.explain import page\n"
        "assert page._pages.get_template('explain.html')\n"
        "from recbole_llm.config_files import config_names, config_path, load_yaml\n"
        "print(recbole_llm.__file__, spark_jobs.__file__, config_names('encoder'),\n"
        "      load_yaml(config_path('model', 'LLMSeqRec'))['encoder'],\n"
        "      load_yaml(config_path('.', 'nightly'))['k'])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    installed = tmp_path / "installed"
    assert run.stdout.split(" ", 2) == [
        f"{installed}/recbole_llm/__init__.py",
        f"{installed}/spark_jobs/__init__.py",
        "['minilm', 'qwen3-embedding-0.6b', 'smollm2-135m'] minilm+tfidf 20\n",
    ]
