"""Every error Tandem raises on purpose, in one tree.

    TandemError
    ├── RequestError            the caller can mend it; nothing was computed
    │   ├── InvalidRequest
    │   │   ├── PromptTooLong
    │   │   └── GrammarRefused
    │   ├── Unsupported
    │   ├── NotFound
    │   │   └── ModelNotFound
    │   ├── ModelDoesNotFit
    │   ├── OffsetLost
    │   ├── AccessDenied
    │   ├── OperatorOnly
    │   ├── HostRefused
    │   ├── BodyTooLarge
    │   └── BodyTooSlow
    ├── Busy                    the same request may succeed later
    │   ├── QueueFull
    │   ├── TooManyRequests
    │   ├── NotReady
    │   └── ShuttingDown
    ├── Interrupted             a request that had begun could not be completed
    │   ├── EpochEnded
    │   │   ├── EngineCrashed
    │   │   ├── NodeLost
    │   │   ├── StepOverdue
    │   │   └── Regrouped
    │   ├── RequestCrashes
    │   ├── DeadlinePassed
    │   └── Replaced
    ├── SetupError              one clear line, then a non-zero exit
    │   ├── BadConfiguration
    │   ├── ModelUnavailable
    │   ├── CannotShard
    │   ├── DoesNotFit
    │   ├── AddressInUse
    │   ├── NodeUnreachable
    │   ├── VersionMismatch
    │   └── LaunchFailed
    ├── AnswerFailed            a server under test did not answer as it should
    └── ProtocolError           two parts of Tandem disagree; ends the epoch
        ├── NotAuthorized
        ├── StepRefused
        └── DigestMismatch

They are mapped once to gRPC status (`cluster/wire/status.py`) and once per HTTP dialect
(`api/errors.py`). A message names what was wrong, with the numbers, and what to do next.
"""

from __future__ import annotations


class TandemError(Exception):
    """Base of all of the below; never raised itself."""


class RequestError(TandemError):
    """Raised when a request can't be served as it stands; the caller can mend it.

    `param` names the offending field in the caller's dialect, if there is one.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """Raised when a field is missing, of the wrong type, or out of its range."""


class PromptTooLong(InvalidRequest):
    """Raised when the prompt alone fills the context, or all of the KV cache; says both numbers
    (tokens), and of a cache both sizes (GiB): `position_bytes` are those of one token."""

    def __init__(self, prompt_tokens: int, context: int, *, position_bytes: int = 0) -> None:
        message = (
            f"the prompt has {prompt_tokens} tokens, and this model's context is {context} "
            "tokens, of which at least one must be left for the answer: shorten the prompt"
        )
        if position_bytes:
            needed, room = (n * position_bytes / 2**30 for n in (prompt_tokens, context))
            message = (
                f"the prompt has {prompt_tokens} tokens, which take {needed:.3g} GiB of KV cache "
                f"on each rank, and there is room for {context} ({room:.3g} GiB), of which at "
                "least one must be left for the answer: shorten the prompt, or serve with more "
                "memory, --kv-bits 8 or a larger --kv-gb"
            )
        super().__init__(message, param="messages")
        self.prompt_tokens = prompt_tokens
        self.context = context


class GrammarRefused(InvalidRequest):
    """Raised when what an answer must conform to can't be expressed as a grammar; says why."""


class Unsupported(RequestError):
    """Raised when a parameter is understood but this version can't do it."""


class NotFound(RequestError):
    """Raised when a request names something that is not there, or not the caller's."""


class ModelNotFound(NotFound):
    """Raised when a request names a model that is not being served."""


class ModelDoesNotFit(RequestError):
    """Raised when a request names a model for which the machines that are here have no room,
    whatever else is unloaded; says what it needs and what there is."""


class OffsetLost(RequestError):
    """Raised when a stream is to be read from a place that is no longer, or not yet, held; says
    from where on it is."""


class AccessDenied(RequestError):
    """Raised when a request brings no API key, or one that is not known."""


class OperatorOnly(RequestError):
    """Raised when a request would change what others are served with, and its API key is no
    operator's."""


class HostRefused(RequestError):
    """Raised when a request names a host that this server does not go by, or comes from a web
    page of another origin: a page may have made a browser send it (DNS rebinding)."""


class BodyTooLarge(RequestError):
    """Raised when a request body is larger than the limit (bytes)."""


class BodyTooSlow(RequestError):
    """Raised when the rest of a request body does not come in time (seconds)."""


class Busy(TandemError):
    """Raised when the cluster can't take the request now; try again in `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Busy):
    """Raised when as many requests are waiting as the queue holds."""


class TooManyRequests(Busy):
    """Raised when one API key has as many requests under way, or sends them as often, as it may."""


class NotReady(Busy):
    """Raised when no epoch is running: the model is loading or a node was lost."""


class ShuttingDown(Busy):
    """Raised when the coordinator is stopping and takes no more requests."""


class Interrupted(TandemError):
    """Raised when a request that had begun can't be completed."""


class EpochEnded(Interrupted):
    """Raised when the engines that were computing a request are gone; says why."""


class EngineCrashed(EpochEnded):
    """Raised when an engine has ended by itself: what it computed may be the reason."""


class NodeLost(EpochEnded):
    """Raised when a machine of the epoch is gone, or can't be reached any more."""


class StepOverdue(EpochEnded):
    """Raised when a step is not done within its deadline (invariant 7)."""


class Regrouped(EpochEnded):
    """Raised to end an epoch whose engines are well, so that the next has other machines."""


class RequestCrashes(Interrupted):
    """Raised when a request has ended epochs again and again, the last one by itself."""


class DeadlinePassed(Interrupted):
    """Raised when a request is not done within its deadline or its time in the queue."""


class Replaced(Interrupted):
    """Raised when a newer request of the same conversation has taken this one's place."""


class SetupError(TandemError):
    """Raised when a command can't start; its message is the whole of what a person sees."""


class BadConfiguration(SetupError):
    """Raised when an option, file or environment variable makes no sense."""


class ModelUnavailable(SetupError):
    """Raised when a model folder is missing or incomplete, or the Hub can't be reached."""


class CannotShard(SetupError):
    """Raised when a model can't be split over the world size; names the dimension."""


class DoesNotFit(SetupError):
    """Raised when no machines that are there have room for a model; says what each of them has,
    what is needed (GiB), and in `options` what would fit."""

    def __init__(self, message: str, options: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.options = options


class AddressInUse(SetupError):
    """Raised when a port that we were told to listen on is taken."""


class NodeUnreachable(SetupError):
    """Raised when a node agent does not answer at its address in time."""


class VersionMismatch(SetupError):
    """Raised when two parts run different versions; names the part and both versions."""


class LaunchFailed(SetupError):
    """Raised when an engine exits or stays silent before it is ready; carries its last words."""


class AnswerFailed(TandemError):
    """Raised when a server that is being measured does not answer as it should: `kind` says how
    in one word that can be counted, `retry_after` for how long it asks to be left alone (s)."""

    def __init__(self, kind: str, detail: str, *, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.kind = kind
        self.retry_after = retry_after


class ProtocolError(TandemError):
    """Raised when a peer breaks the contract of the wire; the epoch can't go on."""


class NotAuthorized(ProtocolError):
    """Raised when a join token, a certificate or an epoch secret is missing or wrong, has expired,
    or was revoked."""


class StepRefused(ProtocolError):
    """Raised when a step's epoch or sequence number is not the one expected."""


class DigestMismatch(ProtocolError):
    """Raised when two ranks report different digests for one step."""
