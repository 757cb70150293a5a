"""Who may talk to whom: credentials, channels and servers of every gRPC endpoint.

Today a channel is plain TCP, and a caller shows a shared secret in the metadata: the join
token to agents and to the registry, the epoch's secret to engines. Certificates will come in
here and nowhere else: `channel` and `bind` are the only places that choose how bytes travel.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from cluster.core.errors import AddressInUse, BadConfiguration, NotAuthorized
from cluster.wire.status import abort

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]

TOKEN_VARIABLE = "TANDEM_JOIN_TOKEN"

_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_CHANNEL: Sequence[tuple[str, Any]] = [
    *_KEEPALIVE,
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 << 20),
]
_SERVER: Sequence[tuple[str, Any]] = [
    *_KEEPALIVE,
    # Without this two servers could share one port, and each would get half the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_receive_message_length", 16 << 20),
]


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


def token(value: str) -> Credential:
    """The join token, shown to agents and to the registry."""
    return Credential("tandem-token", value)


def secret(value: str) -> Credential:
    """An epoch's secret, shown to its engines."""
    return Credential("tandem-secret", value)


def read_token(file: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The join token from `file`, else from TANDEM_JOIN_TOKEN; None when there is neither.

    Raises BadConfiguration when the file can't be read or the token is empty or unprintable.
    """
    if file is not None:
        try:
            value, source = file.read_text().strip(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfiguration(f"can't read the join token from {file}: {error}") from error
    elif TOKEN_VARIABLE in environ:
        value, source = environ[TOKEN_VARIABLE].strip(), f"the variable {TOKEN_VARIABLE}"
    else:
        return None
    if not value or not value.isascii() or not value.isprintable():
        raise BadConfiguration(
            f"the join token in {source} must be one non-empty line of printable ASCII"
        )
    return value


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """True for 0.0.0.0 and ::, which stand for every address and can't be dialled."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def require_token(host: str, value: str | None) -> None:
    """Raise BadConfiguration when `host` can be reached from outside and no token guards it."""
    if value is None and not is_loopback(host):
        raise BadConfiguration(
            f"{host} can be reached by other machines, so a join token is needed: put the same "
            f"one on every machine, in the variable {TOKEN_VARIABLE} or with --token-file"
        )


def split_address(address: str, default_port: int | None = None) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"; raises BadConfiguration."""
    host, colon, port = address.rpartition(":")
    if default_port is not None and (not colon or address.endswith("]")):
        host, port = address, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadConfiguration(f"{address!r} is not an address; HOST:PORT is wanted")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Host and port as one, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def channel(address: str) -> grpc.aio.Channel:
    """A channel to "host:port"; nothing is connected before the first call."""
    host, port = split_address(address)
    return grpc.aio.insecure_channel(join_address(host, port), options=_CHANNEL)


def server(credential: Credential | None) -> grpc.aio.Server:
    """A server that refuses every call without `credential`; None lets everyone in."""
    guards = [Guard(credential)] if credential is not None else []
    return grpc.aio.server(interceptors=guards, options=_SERVER)


def bind(server: grpc.aio.Server, host: str, port: int) -> str:
    """Listen on host:port (0 picks a free one) and return "host:port" as bound.

    Raises AddressInUse, or BadConfiguration when `host` is no address of this machine.
    """
    try:
        bound = server.add_insecure_port(join_address(host, port))
    except RuntimeError as error:
        _explain(host, port)
        raise AddressInUse(f"can't listen on {join_address(host, port)}: {error}") from error
    return join_address(host, bound)


def _explain(host: str, port: int) -> None:
    """Raise what a plain socket says is wrong with host:port, if it says so."""
    where = join_address(host, port)
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except socket.gaierror as error:
        raise BadConfiguration(f"{host} is no known host: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{where} is already in use by another program") from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise BadConfiguration(f"{host} is not an address of this machine") from error
        raise BadConfiguration(f"can't listen on {where}: {error.strerror}") from error


class Guard(grpc.aio.ServerInterceptor):
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


def _refuse(message: str) -> Callable[..., Any]:
    """A handler for calls of any shape that reads nothing and answers NotAuthorized."""

    async def refuse(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> NoReturn:
        await abort(context, NotAuthorized(message))

    return refuse
