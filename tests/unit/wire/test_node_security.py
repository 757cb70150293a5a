"""Addresses, tokens, and which hosts need one."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from cluster.core.errors import BadConfiguration
from cluster.wire import security
from cluster.wire.security import (
    is_loopback,
    join_address,
    read_token,
    require_token,
    split_address,
    token,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    require_token(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "fd00::1", "studio.local", ""])
def test_anything_else_does(host: str) -> None:
    assert not is_loopback(host)
    require_token(host, "t")
    with pytest.raises(BadConfiguration, match="TANDEM_JOIN_TOKEN"):
        require_token(host, None)


def test_where_a_token_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert read_token(file, {"TANDEM_JOIN_TOKEN": "from-env"}) == "from-file"
    assert read_token(None, {"TANDEM_JOIN_TOKEN": " from-env "}) == "from-env"
    assert read_token(None, {}) is None


@pytest.mark.parametrize("value", ["", "\n", "two\nlines", "schlüssel", "nul\0"])
def test_a_token_that_can_not_be_sent(tmp_path: Path, value: str) -> None:
    file = tmp_path / "token"
    file.write_text(value)
    with pytest.raises(BadConfiguration, match="printable ASCII"):
        read_token(file, {})
    with pytest.raises(BadConfiguration, match="printable ASCII"):
        read_token(None, {"TANDEM_JOIN_TOKEN": value})


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="can't read the join token"):
        read_token(tmp_path / "gone", {})


def test_a_credential_does_not_print_its_value() -> None:
    assert "hush" not in repr(token("hush"))


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
    names = {name for name, _ in (*security._CHANNEL, *security._SERVER)}
    assert len(names) > 5
    assert [name for name in sorted(names) if name.encode() + b"\0" not in library] == []
