"""Whatever the schema allows, and much that it does not, gets the answer that it promises."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode

from recbole_llm.scoring import write_artifact
from recbole_llm.serve.app import create_app
from recbole_llm.serve.guards import ApiKeys
from recbole_llm.serve.service import Service
from recbole_llm.serve.settings import ServeSettings
from recbole_llm.serve.snapshot import Source
from tests.data import random_artifact
from tests.recbole_llm.serve.live import listening

ITEMS = [f"{n}" for n in range(200)]
"""More than a request may ask for, and named so that some are asked for."""
OPERATIONS = {
    "POST /recommend", "GET /recommendations/{user_id}", "POST /explain", "GET /users", "GET /items",
    "GET /health", "GET /metrics",
}  # fmt: skip


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    artifact = write_artifact(random_artifact(ITEMS), tmp_path_factory.mktemp("artifacts"))
    service = Service(Source(None, artifact), ServeSettings(), None)
    with listening(create_app(service, ApiKeys([]))) as address:
        yield schemathesis.openapi.from_url(f"{address}openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_an_answer_is_as_promised(schema: schemathesis.BaseSchema, mode: GenerationMode) -> None:
    told = {found.ok().label: found.ok() for found in schema.get_all_operations()}
    assert told.keys() == OPERATIONS
    for operation in told.values():
        if mode == GenerationMode.NEGATIVE and operation.label in ("GET /health", "GET /metrics"):
            continue  # there is nothing to get wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=25, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate()

        ask()
