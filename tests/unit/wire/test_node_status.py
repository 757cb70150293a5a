"""Every error class crosses the wire as itself."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from cluster.core import errors
from cluster.core.errors import Busy, TandemError
from cluster.wire.status import STATUS, by_name, restore, status_of


def tree(kind: type[TandemError] = TandemError) -> Iterator[type[TandemError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


def call_failed(code: grpc.StatusCode, details: str, **trailing: str) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*((k.replace("_", "-"), v) for k, v in trailing.items()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)


def test_every_class_has_a_status() -> None:
    """But the one about servers that are measured: it stays with who measures."""
    assert set(tree()) - {errors.AnswerFailed} == set(STATUS)


@pytest.mark.parametrize("kind", [k for k in STATUS if k is not errors.PromptTooLong])
def test_every_class_comes_back_as_itself(kind: type[TandemError]) -> None:
    failed = call_failed(
        STATUS[kind], "what happened", tandem_error=kind.__name__, tandem_retry_after="2.5"
    )
    error = restore(failed, "the agent")
    assert type(error) is kind
    assert "what happened" in str(error)
    if isinstance(error, Busy):
        assert error.retry_after == 2.5


def test_a_prompt_too_long_comes_back_as_invalid() -> None:
    assert type(by_name("PromptTooLong", "9 of 8")) is errors.InvalidRequest


@pytest.mark.parametrize("name", ["", "TandemError", "SystemExit", "KeyError", "Path"])
def test_only_the_tree_can_be_named(name: str) -> None:
    assert by_name(name, "x") is None


def test_a_class_without_a_status_of_its_own_has_its_parents() -> None:
    class Special(errors.CannotShard):
        pass

    assert status_of(Special("x")) is STATUS[errors.CannotShard]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.NodeUnreachable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.NodeUnreachable),
        (grpc.StatusCode.CANCELLED, errors.NodeUnreachable),
        (grpc.StatusCode.UNIMPLEMENTED, errors.NodeUnreachable),
        (grpc.StatusCode.UNAUTHENTICATED, errors.NotAuthorized),
        (grpc.StatusCode.UNKNOWN, errors.ProtocolError),
    ],
)
def test_a_bare_status(code: grpc.StatusCode, kind: type[TandemError]) -> None:
    error = restore(call_failed(code, "tcp: refused"), "the node agent at 10.0.0.2:7000")
    assert type(error) is kind
    assert "the node agent at 10.0.0.2:7000" in str(error)
