"""Free ports for a group's data plane."""

from __future__ import annotations

import ipaddress
import socket
from collections import deque
from contextlib import ExitStack

from cluster.core.errors import BadConfiguration

_REMEMBERED = 256


class Ports:
    """Hands out ports that were free a moment ago, and none twice within a short while.

    A port is not held: another program may take it before the engine does. Then forming the
    group fails and is tried again with others.
    """

    def __init__(self, host: str) -> None:
        """`host` is the address of this machine that is meant when none is named."""
        self._host = host
        self._recent: deque[int] = deque(maxlen=_REMEMBERED)

    def take(self, count: int, host: str = "") -> tuple[int, ...]:
        """`count` different ports; raises BadConfiguration when the address has none, or is not
        one of this machine."""
        if host and not _is_address(host):
            raise BadConfiguration(f"{host!r} is not the address of one machine")
        host = host or self._host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        ports: list[int] = []
        with ExitStack() as held:
            for _ in range(count + _REMEMBERED):
                if len(ports) == count:
                    break
                probe = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
                try:
                    probe.bind((host, 0))
                except OSError as error:
                    raise BadConfiguration(f"no free port on {host}: {error.strerror}") from error
                port = int(probe.getsockname()[1])
                if port not in self._recent:
                    ports.append(port)
        self._recent.extend(ports)
        return tuple(ports)


def _is_address(host: str) -> bool:
    """Whether it needs no looking up, and is not 0.0.0.0 or ::."""
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
