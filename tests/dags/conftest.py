"""The DAGs as Airflow finds them, and their tasks as it renders them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOME = Path(__file__).resolve().parents[2]
_PLACES = {
    "RECBOLE_LLM_HOME": "/home of it",
    "RECBOLE_LLM_WAREHOUSE": "/data",
    "RECBOLE_LLM_VENV": "/venv",
    "RECBOLE_LLM_CONFIG": "/night.yaml",
}


@pytest.fixture(scope="session")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The DAGs of the project's folder, by ``dag_id``."""
    os.environ.update(_PLACES, AIRFLOW_HOME=str(tmp_path_factory.mktemp("airflow")))
    from airflow.dag_processing.dagbag import BundleDagBag

    bag = BundleDagBag(HOME / "dags", bundle_path=HOME / "dags", bundle_name="dags-folder")
    assert bag.import_errors == {}
    return bag.dags


@pytest.fixture(scope="session")
def render() -> Callable[..., Any]:
    """Renders a copy of a task; a name that the context lacks is an error."""
    from airflow.sdk.definitions._internal.templater import create_template_env

    def rendered(task: Any, **context: Any) -> Any:
        copy = task.prepare_for_execution()
        copy.render_template_fields(context, create_template_env())
        return copy

    return rendered
