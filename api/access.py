"""Who may use this server: host names, origins of web pages, API keys. Asked in that order.

A web page that someone merely looks at can make their browser send requests to addresses that
only they can reach. Two checks keep it out. The name it has the browser call must be one of this
server's: a name that a stranger's DNS points here (DNS rebinding) is not. And the page must be
this server's own or listed: a browser sends some POSTs without asking first (`text/plain`, as
forms do), and then it would be too late.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.caller import ANYONE, NOBODY, Caller, caller_of, set_caller
from api.errors import error_answer, shape_at
from api.keys import Key, KeyRing
from api.request_id import request_id
from cluster.core.errors import (
    AccessDenied,
    BadConfiguration,
    HostRefused,
    OperatorOnly,
    RequestError,
)
from cluster.wire.security import is_loopback

OPEN_PATHS = frozenset({"/health", "/"})
"""What needs no key: balancers ask there, and browsers, which have none before the page is there
that asks for one."""
OPEN_BELOW = "/assets/"
"""The page's files."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+|null|\*")
_BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What is asked of a request before anything of it is served."""

    keys: KeyRing | None = None
    """Keys that are taken; None when none is needed."""
    hosts: Collection[str] | None = None
    """Names that this server goes by, in lower case, beside all IP addresses; None for any, and
    then origins aren't looked at either."""
    origins: tuple[str, ...] = ()
    """Web pages of other origins that may use this server; "*" for all."""
    shared_cache: bool = False
    """All keys share their prompts' prefixes, and can tell what others have asked by the time
    that an answer takes."""

    def admit(self, scope: Scope) -> Caller:
        """The caller of a request; raises HostRefused or AccessDenied."""
        headers = Headers(scope=scope)
        if self.hosts is not None:
            self._check_host(headers.get("host"))
            self._check_origin(headers.get("origin"), headers.get("host", ""))
        if self.keys is None:
            return ANYONE
        if scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_BELOW):
            return NOBODY
        return self._caller(_find(self.keys, headers))

    def _check_host(self, host: str | None) -> None:
        # HTTP/1.1 always has one; what speaks HTTP/1.0 without it is no browser.
        if host is None or is_ip_address(name := host_name(host)):
            return
        if name not in (self.hosts or ()):
            raise HostRefused(
                f"this server does not go by the name {name!r}: call it by its address, or have "
                "the name allowed with `tandem serve --allow-host NAME`"
            )

    def _check_origin(self, origin: str | None, host: str) -> None:
        if origin is None or "*" in self.origins or origin in self.origins:
            return
        if "://" not in origin or origin.partition("://")[2].lower() != host.lower():
            raise HostRefused(
                f"web pages of {origin!r} may not use this server: allow it with "
                "`tandem serve --cors ORIGIN`"
            )

    def _caller(self, key: Key) -> Caller:
        owner = key.sha256[:32]
        cache_scope = "" if self.shared_cache else owner
        return Caller(key.name, owner, cache_scope, key.concurrency, key.per_minute, key.operator)


OPEN_POLICY = AccessPolicy()
"""Lets everything through."""


def _find(keys: KeyRing, headers: Headers) -> Key:
    """The first known key that a request has brought; raises AccessDenied."""
    bearer = _BEARER.fullmatch(headers.get("authorization", "").encode("latin-1"))
    sent = [bearer[1]] if bearer else []
    if "x-api-key" in headers:
        sent.append(headers["x-api-key"].encode("latin-1"))
    if not sent:
        raise AccessDenied(
            "an API key is needed: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`; "
            "`tandem key add NAME` makes one on the server's machine"
        )
    for key in sent:
        if found := keys.find(key):
            return found
    raise AccessDenied("this API key is not known here: it may be mistyped, or revoked")


def require_own_machine(request: Request, otherwise: str) -> None:
    """Raise AccessDenied, which says `otherwise`, unless the caller is on the machine that serves:
    keys are for those who ask models something."""
    if request.client is None or not is_loopback(request.client.host):
        raise AccessDenied(otherwise)


def require_operator(scope: Scope, what: str) -> None:
    """Raise OperatorOnly unless the caller may do `what` to others; who needs no key may."""
    if not caller_of(scope).operator:
        raise OperatorOnly(
            f"{what} takes an operator's API key, and this one is none: `tandem key add NAME "
            "--operator` makes one on the server's machine"
        )


def host_name(host: str) -> str:
    """The name in a Host header, without port, brackets and the root's dot, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name = host.partition(":")[0] if host.count(":") == 1 else host  # else ::1, as --host has it
    return name.removesuffix(".").lower()


def is_ip_address(name: str) -> bool:
    """True for IPv4 and IPv6 literals, which no DNS server can point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def own_names(*more: str) -> frozenset[str]:
    """Names that this machine goes by: localhost, its host name, that name on the local network,
    and `more`."""
    whole = socket.gethostname()
    short = whole.partition(".")[0]
    names = {"localhost", whole, short, f"{short}.local", *more}
    return frozenset(host_name(name) for name in names if name)


def check_origins(origins: Collection[str], *, keys: bool) -> tuple[str, ...]:
    """The origins of --cors; raises BadConfiguration for one that no browser would send, and for
    "*" without keys."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin.lower()):
            raise BadConfiguration(
                f"--cors {origin}: give an origin as browsers send it, such as "
                "https://chat.example.org or http://localhost:3000, without a path"
            )
    if "*" in origins and not keys:
        raise BadConfiguration(
            "--cors '*' lets in every web page that anyone here looks at: it needs API keys "
            "(--require-key)"
        )
    return tuple(origin.lower() for origin in origins)


class Access:
    """ASGI middleware: serves what its policy admits, and says `caller_of` whose it is."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            set_caller(scope, self._policy.admit(scope))
        except RequestError as error:
            answer = error_answer(error, shape_at(scope["path"]), request_id(scope))
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)
