"""What a server asks of every call before its service sees it: a secret, or a certificate."""

from __future__ import annotations

import functools
import hmac
import logging
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from cluster.core.errors import NotAuthorized
from cluster.trust.certificate import Name, Role
from cluster.trust.identity import IdentityFile
from cluster.wire.status import abort

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger("tandem.wire")


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret that a caller shows and a server compares."""

    key: str
    """Metadata key."""
    value: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """To be sent with each call."""
        return ((self.key, self.value),)

    def __repr__(self) -> str:
        return f"Credential({self.key!r}, ...)"


def secret(value: str) -> Credential:
    """An epoch's secret, shown to its engines."""
    return Credential("tandem-secret", value)


def caller(context: _Context) -> str:
    """Where a call comes from, as people write it: "10.0.0.2:50000"."""
    return urllib.parse.unquote(context.peer().removeprefix("ipv4:").removeprefix("ipv6:"))


def caller_host(context: _Context) -> str:
    """The address alone."""
    return caller(context).rpartition(":")[0]


def caller_name(context: _Context) -> Name | None:
    """Whom the caller's certificate stands for, which TLS has verified; None where no certificate
    was asked for. Raises NotAuthorized when it is none of ours."""
    shown = context.auth_context()
    if b"ssl" not in shown.get("transport_security_type", ()):
        return None
    uris = [bytes(uri).decode(errors="replace") for uri in shown.get("peer_uri", ())]
    return Name.parse(uris[0] if len(uris) == 1 else "")


class SecretGuard(grpc.aio.ServerInterceptor):
    """Answers NotAuthorized to every call that does not show the credential."""

    def __init__(self, credential: Credential) -> None:
        self._key = credential.key
        self._expected = credential.value.encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        shown = dict(handler_call_details.invocation_metadata or ()).get(self._key, "")
        given = shown if isinstance(shown, bytes) else shown.encode()
        if hmac.compare_digest(given, self._expected):
            return await continuation(handler_call_details)
        what = "missing" if not given else "wrong"
        return grpc.stream_stream_rpc_method_handler(_refuse(f"{self._key} is {what}"))


class NameGuard(grpc.aio.ServerInterceptor):
    """Answers NotAuthorized to every call whose certificate is not one of this cluster, for
    another role, or no longer to be let in."""

    def __init__(
        self,
        identity: IdentityFile,
        role: Role,
        trouble: Callable[[str], str] = lambda node: "",
        shared: Collection[str] = (),
    ) -> None:
        """`trouble` says why a machine of that id is to be refused; empty when it is not. The
        methods `shared` ("/package.Service/Method") are for every role of the cluster."""
        self._identity = identity
        self._role = role
        self._trouble = trouble
        self._shared = frozenset(shared)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        handler = await continuation(handler_call_details)
        shared = handler_call_details.method in self._shared
        check = functools.partial(self._check, shared)
        return handler if handler is None else _checked(handler, check)

    async def _check(self, shared: bool, context: _Context) -> None:
        try:
            if why := self._wrong(caller_name(context), shared):
                raise NotAuthorized(why)
        except NotAuthorized as error:
            log.warning("refused a call from %s: %s", caller(context), error)
            await abort(context, error)

    def _wrong(self, name: Name | None, shared: bool) -> str:
        if name is None:
            return "no certificate was shown"
        if name.cluster != self._identity.current().name.cluster:
            return f"{name.id} is one of another cluster"
        if name.role is not self._role and not shared:
            return f"{name.id} is a {name.role} here, and only a {self._role} may call this"
        return self._trouble(name.id)


def admit(
    identity: IdentityFile | None,
    role: Role,
    trouble: Callable[[str], str] = lambda node: "",
    shared: Collection[str] = (),
) -> tuple[NameGuard, ...]:
    """What guards an endpoint for machines of `role`, and its `shared` methods for all; nothing
    where there are no certificates, which is on loopback only."""
    return () if identity is None else (NameGuard(identity, role, trouble, shared),)


def _checked(handler: _Handler, check: Callable[[_Context], Awaitable[None]]) -> _Handler:
    """The handler of a call, which is run once `check` has let the caller in. Ours are all
    coroutines; those that stream write themselves."""
    kind, inner = next(
        (kind, getattr(handler, kind))
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        if getattr(handler, kind) is not None
    )

    async def checked(request: Any, context: _Context) -> Any:
        await check(context)
        return await inner(request, context)

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    made: _Handler = make(checked, handler.request_deserializer, handler.response_serializer)
    return made


def _refuse(message: str) -> Callable[..., Any]:
    """A handler for calls of any shape that reads nothing and answers NotAuthorized."""

    async def refuse(requests: AsyncIterator[bytes], context: _Context) -> NoReturn:
        log.warning("refused a call from %s: %s", caller(context), message)
        await abort(context, NotAuthorized(message))

    return refuse
