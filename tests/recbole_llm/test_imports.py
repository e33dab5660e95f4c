"""Importing the package costs nothing and changes nothing but one finder."""

import subprocess
import sys

import recbole_llm


def test_light_import() -> None:
    code = (
        "import sys\nbefore = len(sys.meta_path)\nimport recbole_llm, recbole_llm.warehouse\n"
        "import importlib; importlib.reload(recbole_llm)\n"
        "heavy = {'recbole', 'torch', 'numpy', 'pandas', 'transformers', 'yaml', 'duckdb'}\n"
        "print(sorted(heavy & {n.partition('.')[0] for n in sys.modules}),"
        " len(sys.meta_path) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[] 1\n"


def test_the_finder_answers_for_one_module() -> None:
    finder = next(f for f in sys.meta_path if type(f).__name__ == "_ModelFinder")
    found = finder.find_spec("recbole.model.sequential_recommender.llmseqrec")
    assert found is not None
    assert found.origin == recbole_llm.__file__.replace("__init__", "recbole_entry")
    assert finder.find_spec("recbole.model.sequential_recommender.sasrec") is None
