"""RDMA devices with an active port, by network interface. Not run on Macs with RDMA yet."""

from __future__ import annotations

from pathlib import Path

from cluster.node.linux import read_rdma
from cluster.node.macos import parse_ibv_devinfo

_PREFIX = "rdma_"
"""macOS names a device after its interface: rdma_en5 (MLX's documentation of jaccl)."""


def macos_devices(devinfo: str) -> dict[str, str]:
    """Interface -> device in the output of `ibv_devinfo`. A Thunderbolt 4 port has a device too,
    which can't do RDMA (exo #1636): to use them is for a person to ask."""
    active = parse_ibv_devinfo(devinfo)[1]
    return {name.removeprefix(_PREFIX): name for name in active if name.startswith(_PREFIX)}


def linux_devices(root: Path = Path("/sys/class/infiniband")) -> dict[str, str]:
    """Interface -> device below /sys/class/infiniband."""
    active = read_rdma(root)[1]
    return {i.name: name for name in active for i in (root / name / "device" / "net").glob("*")}
