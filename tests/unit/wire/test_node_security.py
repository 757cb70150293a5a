"""Addresses, and which hosts need a certificate."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from cluster.core.errors import BadConfiguration
from cluster.wire import security
from cluster.wire.guard import secret
from cluster.wire.security import (
    is_loopback,
    join_address,
    require_identity,
    split_address,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_certificate(host: str) -> None:
    assert is_loopback(host)
    require_identity(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "fd00::1", "studio.local", ""])
def test_anything_else_does(host: str) -> None:
    assert not is_loopback(host)
    require_identity(host, object())
    with pytest.raises(BadConfiguration, match="tandem token create"):
        require_identity(host, None)


def test_a_credential_does_not_print_its_value() -> None:
    assert "hush" not in repr(secret("hush"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.local:80", ("a.local", 80)),
        ("[::1]:9", ("::1", 9)),
        ("1.2.3.4:65535", ("1.2.3.4", 65535)),
    ],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts
    assert join_address(*parts) == text


@pytest.mark.parametrize("text", ["", "a", ":1", "a:", "a:b", "a:0", "a:65536", "a:-1", "a:١"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(BadConfiguration, match="HOST:PORT"):
        split_address(text)


def test_a_default_port() -> None:
    assert split_address("studio", 8643) == ("studio", 8643)
    assert split_address("[::1]", 8643) == ("::1", 8643)
    assert split_address("studio:1", 8643) == ("studio", 1)


def test_grpc_knows_every_option_that_is_set() -> None:
    """It ignores others without a word: a name that was wrong here once had idle engines hung up
    on after 40 seconds."""
    library = Path(cygrpc.__file__).read_bytes()
    every = (*security._CHANNEL, *security._SERVER, *security._NEWCOMER_SERVER)
    names = {name for name, _ in every}
    assert len(names) > 5
    assert [name for name in sorted(names) if name.encode() + b"\0" not in library] == []
