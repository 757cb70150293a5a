"""How bytes travel: addresses, channels and servers of every gRPC endpoint.

`channel` and `bind` are the only places that choose. With an identity (cluster/trust) it is mutual
TLS within one cluster; without one it is plain TCP, which is refused beyond loopback. Who may call
what is in `guard.py`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

import grpc

from cluster.core.errors import AddressInUse, BadConfiguration
from cluster.trust.certificate import Role
from cluster.trust.identity import IdentityFile

MOST_NEWCOMERS = 8
"""That are answered at a time."""

_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_CHANNEL: Sequence[tuple[str, Any]] = [
    *_KEEPALIVE,
    # Who comes back is found within seconds: gRPC's own pauses grow to two minutes, and where
    # packets are lost one attempt takes up to 20 s.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
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
    # A peer that connects and shows nothing is hung up on.
    ("grpc.server_handshake_timeout_ms", 10_000),
]
_NEWCOMER_SERVER: Sequence[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 16 << 10),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_connection_age_ms", 30_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
]


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


def require_identity(host: str, identity: object | None) -> None:
    """Raise BadConfiguration when `host` can be reached from outside and no certificate guards
    it: nothing beyond loopback is ever plain."""
    if identity is None and not is_loopback(host):
        raise BadConfiguration(
            f"{host} can be reached by other machines, so this one needs a certificate of its "
            "cluster: `tandem token create` on the server prints a token to join with"
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


def channel(address: str, identity: IdentityFile | None, server_name: str) -> grpc.aio.Channel:
    """A channel to "host:port"; nothing is connected before the first call.

    With an identity over mutual TLS, in which the other side must be of the same cluster and
    have `server_name` in its certificate; without one plain, and to loopback only. Raises
    BadConfiguration.
    """
    host, port = split_address(address)
    require_identity(host, identity)
    if identity is None:
        return grpc.aio.insecure_channel(join_address(host, port), options=_CHANNEL)
    mine = identity.current()
    credentials = grpc.ssl_channel_credentials(
        mine.authority.encode(), mine.key.encode(), mine.certificate.encode()
    )
    return _secure(host, port, credentials, server_name)


def newcomer_channel(address: str, authority: str) -> grpc.aio.Channel:
    """A channel to a coordinator of that authority (PEM), from a machine that has no certificate
    yet."""
    host, port = split_address(address)
    credentials = grpc.ssl_channel_credentials(authority.encode())
    return _secure(host, port, credentials, Role.COORDINATOR.server_name)


def _secure(
    host: str, port: int, credentials: grpc.ChannelCredentials, server_name: str
) -> grpc.aio.Channel:
    options = [*_CHANNEL, ("grpc.ssl_target_name_override", server_name)]
    return grpc.aio.secure_channel(join_address(host, port), credentials, options=options)


def server(*guards: grpc.aio.ServerInterceptor) -> grpc.aio.Server:
    """A server whose calls all pass the guards, in order, before a service sees them."""
    return grpc.aio.server(interceptors=guards, options=_SERVER)


def newcomer_server() -> grpc.aio.Server:
    """A server for callers of whom nothing is known: little of everything, and not for long."""
    return grpc.aio.server(options=_NEWCOMER_SERVER, maximum_concurrent_rpcs=MOST_NEWCOMERS)


def bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    identity: IdentityFile | None = None,
    *,
    newcomers: bool = False,
) -> str:
    """Listen on host:port (0 picks a free one) and return "host:port" as bound.

    With an identity over mutual TLS, or with `newcomers` over TLS that asks for no certificate;
    a renewed one is shown from the next handshake on. Raises AddressInUse, or BadConfiguration
    when `host` is no address of this machine, or is not loopback and there is no identity.
    """
    require_identity(host, identity)
    where = join_address(host, port)
    try:
        if identity is None:
            bound = server.add_insecure_port(where)
        else:
            bound = server.add_secure_port(where, _credentials(identity, newcomers))
    except RuntimeError as error:
        _explain(host, port)
        raise AddressInUse(f"can't listen on {where}: {error}") from error
    return join_address(host, bound)


def _credentials(identity: IdentityFile, newcomers: bool) -> grpc.ServerCredentials:
    def present() -> grpc.ServerCertificateConfiguration:
        """Called by gRPC, in a thread of its own, at each handshake."""
        mine = identity.current()
        pair = (mine.key.encode(), mine.certificate.encode())
        return grpc.ssl_server_certificate_configuration([pair], mine.authority.encode())

    return grpc.dynamic_ssl_server_credentials(
        present(), present, require_client_authentication=not newcomers
    )


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
