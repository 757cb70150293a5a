"""What the options of `tandem serve` mean together."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli import serving
from cluster.cli.serve import control_address, disk_tier, parse_nodes
from cluster.core.errors import BadConfiguration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ((), 0)),
        ("2", ((), 2)),
        (" 10.0.0.2:8644 , mac.local:1 ", (("10.0.0.2:8644", "mac.local:1"), 0)),
    ],
)
def test_nodes(text: str, expected: tuple[tuple[str, ...], int]) -> None:
    assert parse_nodes(text) == expected


@pytest.mark.parametrize("text", ["many", "-1", "10.0.0.2", "10.0.0.2:x", ":8644", "a:1,,b:2"])
def test_nodes_that_make_no_sense(text: str) -> None:
    with pytest.raises(BadConfiguration, match="--nodes"):
        parse_nodes(text)


@pytest.mark.parametrize(
    ("control", "host", "alone", "expected"),
    [
        ("", "127.0.0.1", True, ("127.0.0.1", 8643)),
        ("", "0.0.0.0", True, ("127.0.0.1", 8643)),
        ("", "192.168.1.10", False, ("192.168.1.10", 8643)),
        ("10.0.0.1", "0.0.0.0", False, ("10.0.0.1", 8643)),
        ("10.0.0.1:9000", "127.0.0.1", False, ("10.0.0.1", 9000)),
    ],
)
def test_control(control: str, host: str, alone: bool, expected: tuple[str, int]) -> None:
    assert control_address(control, host, alone=alone) == expected


@pytest.mark.parametrize(
    ("host", "dialled", "reached"),
    [
        ("127.0.0.1", (), True),
        ("127.0.0.1", ("127.0.0.2:8644",), True),
        ("127.0.0.1", ("192.168.1.11:8644",), False),
        ("192.168.1.10", ("192.168.1.11:8644", "192.168.1.12:8644"), True),
    ],
)
def test_whether_others_reach_this_machines_agent(
    host: str, dialled: tuple[str, ...], reached: bool
) -> None:
    assert serving._reached(host, dialled) is reached


def test_other_machines_can_not_be_told_a_wildcard() -> None:
    with pytest.raises(BadConfiguration, match="--control"):
        control_address("", "0.0.0.0", alone=False)


def test_the_disk_tier() -> None:
    assert disk_tier(None, None) == ("", 0)
    assert disk_tier(Path("/kv"), None) == ("/kv", 20 << 30)
    assert disk_tier(Path("kv"), 0.5) == (str(Path.cwd() / "kv"), 1 << 29)
    assert disk_tier(Path("~/kv"), 1) == (str(Path.home() / "kv"), 1 << 30)
    with pytest.raises(BadConfiguration, match="--kv-dir"):
        disk_tier(None, 5)
