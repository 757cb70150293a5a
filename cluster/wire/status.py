"""The error tree on the wire: one gRPC status per class, the class name beside it.

A server answers a TandemError with `abort`; a client turns what it got back into the same
class with `restore`. The class name travels in the trailing metadata key "tandem-error".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc

from cluster.core import errors
from cluster.core.errors import Busy, NodeUnreachable, NotAuthorized, ProtocolError, TandemError

_CLASS_KEY = "tandem-error"
_RETRY_KEY = "tandem-retry-after"
_LONGEST = 2000
"""Characters of a message that travel; HTTP/2 headers have a limit of their own."""

STATUS: dict[type[TandemError], grpc.StatusCode] = {
    errors.RequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PromptTooLong: grpc.StatusCode.INVALID_ARGUMENT,
    errors.GrammarRefused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelDoesNotFit: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.OffsetLost: grpc.StatusCode.OUT_OF_RANGE,
    errors.AccessDenied: grpc.StatusCode.UNAUTHENTICATED,
    errors.OperatorOnly: grpc.StatusCode.PERMISSION_DENIED,
    errors.HostRefused: grpc.StatusCode.PERMISSION_DENIED,
    errors.BodyTooSlow: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.BodyTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Busy: grpc.StatusCode.UNAVAILABLE,
    errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooManyRequests: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    errors.Interrupted: grpc.StatusCode.ABORTED,
    errors.EpochEnded: grpc.StatusCode.ABORTED,
    errors.EngineCrashed: grpc.StatusCode.ABORTED,
    errors.NodeLost: grpc.StatusCode.ABORTED,
    errors.StepOverdue: grpc.StatusCode.ABORTED,
    errors.Regrouped: grpc.StatusCode.ABORTED,
    errors.RequestCrashes: grpc.StatusCode.ABORTED,
    errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Replaced: grpc.StatusCode.ABORTED,
    errors.SetupError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BadConfiguration: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelUnavailable: grpc.StatusCode.NOT_FOUND,
    errors.CannotShard: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DoesNotFit: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AddressInUse: grpc.StatusCode.ALREADY_EXISTS,
    errors.NodeUnreachable: grpc.StatusCode.UNAVAILABLE,
    errors.VersionMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LaunchFailed: grpc.StatusCode.ABORTED,
    errors.ProtocolError: grpc.StatusCode.INTERNAL,
    errors.NotAuthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.StepRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DigestMismatch: grpc.StatusCode.DATA_LOSS,
}
"""A test holds it complete, but for AnswerFailed, which no call of ours ends with."""

_BY_NAME = {kind.__name__: kind for kind in STATUS}


def status_of(error: TandemError) -> grpc.StatusCode:
    """The gRPC status of an error: its class's, else that of the nearest class above."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def by_name(name: str, message: str, *, retry_after: float = 1.0) -> TandemError | None:
    """The error class called `name` with `message`; None when the tree has no such class.

    PromptTooLong, whose message is made of numbers, comes back as InvalidRequest.
    """
    kind = _BY_NAME.get(name)
    if kind is None:
        return None
    if issubclass(kind, Busy):
        return kind(message, retry_after=retry_after)
    if kind is errors.PromptTooLong:
        return errors.InvalidRequest(message)
    return kind(message)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: TandemError) -> NoReturn:
    """End a call on the server with `error`."""
    trailing = [(_CLASS_KEY, type(error).__name__)]
    if isinstance(error, Busy):
        trailing.append((_RETRY_KEY, repr(error.retry_after)))
    await context.abort(status_of(error), str(error)[:_LONGEST], tuple(trailing))
    raise AssertionError("abort never returns")


def restore(error: grpc.aio.AioRpcError, peer: str) -> TandemError:
    """What a failed call to `peer` ("the node agent at 10.0.0.2:7000") means.

    The class that the server raised, or what the bare status says: NodeUnreachable when there
    was no answer, NotAuthorized, or ProtocolError.
    """
    trailing = dict(error.trailing_metadata() or ())
    details = error.details() or error.code().name
    name = trailing.get(_CLASS_KEY, "")
    retry = trailing.get(_RETRY_KEY, "")
    known = by_name(str(name), details, retry_after=_seconds(str(retry)))
    if isinstance(known, NotAuthorized):
        return NotAuthorized(f"{peer} refused: {details}")
    if known is not None:
        return known
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return NodeUnreachable(f"{peer} can't be reached: {_reason(details)}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return NodeUnreachable(f"{peer} did not answer in time")
        case grpc.StatusCode.CANCELLED:
            return NodeUnreachable(f"{peer} dropped the call")
        case grpc.StatusCode.UNIMPLEMENTED:
            return NodeUnreachable(f"something answers at this address, but it is not {peer}")
        case grpc.StatusCode.UNAUTHENTICATED:
            return NotAuthorized(f"{peer} refused: {details}")
        case code:
            return ProtocolError(f"{peer} failed with {code.name}: {details}")


def lost(error: grpc.aio.AioRpcError) -> bool:
    """True when a call ended without a word of the server: the connection broke."""
    return _CLASS_KEY not in dict(error.trailing_metadata() or ())


@contextmanager
def restored(peer: str) -> Iterator[None]:
    """Turn a failed call inside into the error it stands for.

    A call that ends because its channel was closed here reaches its reader as a cancellation
    that nobody asked for; it becomes NodeUnreachable.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise restore(error, peer) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise NodeUnreachable(f"the connection to {peer} was closed here") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0


def _reason(details: str) -> str:
    """The last part of gRPC's chain of causes, which is the operating system's."""
    return details.rsplit(": ", 1)[-1]
