from __future__ import annotations

import inspect
import json

import pytest

from api.convert.openai_chat import error_event
from api.errors import FAULTS, error_answer, error_body, fault_of, shape_at
from cluster.core import errors
from cluster.core.errors import (
    BodyTooLarge,
    CannotShard,
    DeadlinePassed,
    DigestMismatch,
    EpochEnded,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    OperatorOnly,
    PromptTooLong,
    QueueFull,
    ShuttingDown,
    TandemError,
    Unsupported,
)


@pytest.mark.parametrize(
    ("error", "status", "code", "param", "retry_after"),
    [
        (InvalidRequest("m", param="top_p"), 400, None, "top_p", None),
        (PromptTooLong(9, 8), 400, "context_length_exceeded", "messages", None),
        (Unsupported("m", param="tools"), 400, "unsupported_parameter", "tools", None),
        (ModelNotFound("m", param="model"), 404, "model_not_found", "model", None),
        (OperatorOnly("m"), 403, "operator_only", None, None),
        (BodyTooLarge("m"), 413, "request_too_large", None, None),
        (QueueFull("m", retry_after=1.2), 429, "queue_full", None, 2),
        (NotReady("m", retry_after=0), 503, "not_ready", None, 1),
        (ShuttingDown("m", retry_after=5), 503, "shutting_down", None, 5),
        (EpochEnded("m"), 503, "epoch_ended", None, 1),
        (DeadlinePassed("m"), 504, "deadline_passed", None, None),
        (CannotShard("m"), 500, None, None, None),
        (DigestMismatch("m"), 500, None, None, None),
    ],
)
def test_answers(
    error: TandemError, status: int, code: str | None, param: str | None, retry_after: int | None
) -> None:
    answer = error_answer(error)
    body = json.loads(bytes(answer.body))
    assert answer.status_code == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)
    assert body["error"]["message"] == str(error)
    assert answer.headers.get("retry-after") == (None if retry_after is None else str(retry_after))
    assert error_event(error)["error"].get("retry_after") == retry_after


def test_every_error_that_a_request_can_meet_has_an_entry_of_its_own() -> None:
    families = (errors.RequestError, errors.Busy, errors.Interrupted)
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, families) and kind is not errors.RequestError:
            assert kind in FAULTS, kind


def test_a_class_without_an_entry_takes_its_bases() -> None:
    class Odd(InvalidRequest):
        """For this test."""

    assert fault_of(Odd("m")) is FAULTS[InvalidRequest]
    assert error_body(Odd("m", param="x"))["error"]["param"] == "x"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"type": "error", "request_id": "req_1",
                          "error": {"type": "overloaded_error", "message": "m"}}),
        ("/api/chat", {"error": "m"}),
        ("/v1/chat/completions", {"error": {"message": "m", "type": "server_error",
                                            "param": None, "code": "not_ready"}}),
    ],
)  # fmt: skip
def test_each_dialect_has_a_shape(path: str, body: dict[str, object]) -> None:
    answer = error_answer(NotReady("m", retry_after=2), shape_at(path), "req_1")
    assert json.loads(bytes(answer.body)) == body
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
