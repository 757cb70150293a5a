"""Ports handed out are free, different, and not the ones handed out just before."""

from __future__ import annotations

import socket

import pytest

from cluster.core.errors import BadConfiguration
from cluster.node.ports import Ports


def test_ports_are_free_and_never_given_twice_in_a_row() -> None:
    ports = Ports("127.0.0.1")
    first, second = ports.take(30), ports.take(30)
    assert len({*first, *second}) == 60
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", first[0]))
    assert ports.take(0) == ()


def test_an_address_of_another_machine() -> None:
    with pytest.raises(BadConfiguration, match=r"no free port on 203\.0\.113\.9"):
        Ports("203.0.113.9").take(1)
