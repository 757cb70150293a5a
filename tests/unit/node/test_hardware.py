"""Parsing of recorded outputs; what this machine says of itself."""

from __future__ import annotations

import pytest

from cluster.node.hardware import (
    Hardware,
    ask,
    linux_usable,
    metal_usable,
    node_id,
    parse_cpuinfo,
    parse_memory_limit,
    parse_nvidia,
    parse_platform_uuid,
    read_hardware,
)

GIB = 1 << 30

CPUINFO_X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum  8481C CPU @ 2.70GHz
stepping\t: 8
processor\t: 1
model name\t: another
"""
CPUINFO_PI = """processor\t: 0
BogoMIPS\t: 108.00
Hardware\t: BCM2835
Revision\t: c03111
Model\t\t: Raspberry Pi 4 Model B Rev 1.1
"""
IOREG = """+-o J575dAP  <class IOPlatformExpertDevice, id 0x100000260, registered, matched>
    {
      "manufacturer" = <"Apple Inc.">
      "IOPlatformSerialNumber" = "H2WFAKE00001"
      "IOPlatformUUID" = "6E1D5A0C-7C0B-5E0F-9B39-AAAAAAAAAAAA"
      "model" = <"Mac15,14">
    }
"""


def test_chip_from_cpuinfo() -> None:
    assert parse_cpuinfo(CPUINFO_X86) == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert parse_cpuinfo(CPUINFO_PI) == "BCM2835"
    assert parse_cpuinfo("processor: 0\n") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max\n", 8 * GIB), ("", 8 * GIB), ("2147483648\n", 2 * GIB), ("99999999999999", 8 * GIB)],
)
def test_container_limit(text: str, expected: int) -> None:
    assert parse_memory_limit(text, 8 * GIB) == expected


def test_gpu() -> None:
    two = "NVIDIA H200, 143771\nNVIDIA H200, 143771\n"
    assert parse_nvidia(two) == ("NVIDIA H200", 143771 << 20)
    assert parse_nvidia("") is None
    assert parse_nvidia("NVIDIA-SMI has failed, because it could not talk\n") is None


def test_platform_uuid() -> None:
    assert parse_platform_uuid(IOREG) == "6E1D5A0C-7C0B-5E0F-9B39-AAAAAAAAAAAA"
    assert parse_platform_uuid("") == ""


def test_what_metal_may_use() -> None:
    assert metal_usable(16 * GIB, 0) == 16 * GIB * 2 // 3
    assert metal_usable(512 * GIB, 0) == 384 * GIB
    assert metal_usable(512 * GIB, 480 << 10) == 480 * GIB
    assert metal_usable(16 * GIB, 99 << 20) == 16 * GIB


def test_what_linux_may_use() -> None:
    assert linux_usable(100 * GIB) == 90 * GIB
    assert linux_usable(4 * GIB) == 3 * GIB
    assert linux_usable(1 * GIB) == GIB // 2


def test_this_machine() -> None:
    hardware = read_hardware()
    assert hardware.cores >= 1
    assert 0 < hardware.usable_bytes < hardware.memory_bytes
    assert hardware.chip
    assert hardware.system.startswith(("Linux ", "macOS "))


def test_node_id_is_of_machine_and_address() -> None:
    def hardware(machine: str) -> Hardware:
        return Hardware("studio.local", "M3", 1, 2, 1, "macOS 26", machine)

    one = node_id(hardware("a"), "10.0.0.1", 0)
    assert one == node_id(hardware("a"), "10.0.0.1", 0)
    assert one.startswith("studio-")
    others = [
        node_id(hardware("b"), "10.0.0.1", 0),
        node_id(hardware("a"), "10.0.0.2", 0),
        node_id(hardware("a"), "10.0.0.1", 7000),
    ]
    assert len({one, *others}) == 4


def test_a_command_that_can_not_be_asked() -> None:
    assert ask("no-such-command-anywhere") == ""
    assert ask("false") == ""
    assert ask("echo", " x ") == "x"
