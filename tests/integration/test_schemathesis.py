"""Anything that the OpenAPI document allows, and much that it does not, on every endpoint: no 5xx,
and no answer that is not documented. TANDEM_SCHEMATHESIS_EXAMPLES sets how many of each."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_app
from api.endpoints import OPERATIONS, Operation
from cluster.core.request import Finish
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import FakeCoordinator
from tests.unit.text.bpe import make_folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import checks
    from schemathesis.specs.openapi import checks as openapi_checks

EXAMPLES = int(os.environ.get("TANDEM_SCHEMATHESIS_EXAMPLES", "5"))
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
CHECKS = (
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
)


def _local(app: ASGIApp) -> ASGIApp:
    """As if everything came from this machine."""

    async def local(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": ("127.0.0.1", 1)}, receive, send)

    return local


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> FakeCoordinator:
    tokenizer = Tokenizer.load(make_folder(tmp_path_factory.mktemp("bpe")))
    coordinator = FakeCoordinator(tokenizer)
    coordinator.script = ['{"a": 1}', Finish.LENGTH]
    return coordinator


@pytest.fixture(scope="module")
def schema(coordinator: FakeCoordinator) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", _local(create_app(coordinator)))


@pytest.mark.parametrize(
    "place", [(one.method, one.path) for one in OPERATIONS], ids=lambda place: " ".join(place)
)
def test_every_answer_is_documented(schema: Any, place: tuple[str, str]) -> None:
    method, path = place
    operation = schema[path][method]
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in MODES))

    @given(case=cases)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="TANDEM_SCHEMATHESIS_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    def answered(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    answered()


@pytest.mark.parametrize(
    "one", [one for one in OPERATIONS if one.example], ids=lambda one: one.path
)
def test_every_example_is_accepted_and_its_answer_documented(schema: Any, one: Operation) -> None:
    example = dict(one.example or {})
    if "model" in example:
        example["model"] = "org/fake-model"
    for fields in ({"stream": True}, {"stream": False}):
        case = schema[one.path][one.method].Case(
            body={**example, **fields}, media_type="application/json"
        )
        answer = case.call_and_validate(checks=CHECKS)
        assert answer.status_code == one.status
