"""RDMA devices with an active port, by network interface.

Not run on Macs with RDMA yet: `ibv_devinfo` prints there what libibverbs prints everywhere, and
devices are named after their interfaces (MLX's documentation of jaccl). A device of a Thunderbolt 4
port exists too, but can't do RDMA.
"""

from __future__ import annotations

import re
from pathlib import Path

_ACTIVE = "PORT_ACTIVE"


def parse_devinfo(text: str) -> dict[str, str]:
    """Interface -> device in the output of `ibv_devinfo`, of devices named rdma_<interface>."""
    devices = {}
    for part in re.split(r"^hca_id:\s*(?=\S)", text, flags=re.MULTILINE)[1:]:
        name = part.split(maxsplit=1)[0]
        if name.startswith("rdma_") and re.search(rf"\bstate:\s*{_ACTIVE}\b", part):
            devices[name.removeprefix("rdma_")] = name
    return devices


def linux_devices(root: Path = Path("/sys/class/infiniband")) -> dict[str, str]:
    """Interface -> device below /sys/class/infiniband (the kernel's sysfs-class-infiniband)."""
    devices = {}
    for state in sorted(root.glob("*/ports/*/state")):
        try:
            active = state.read_text().split(":")[-1].strip() == "ACTIVE"
        except OSError:
            continue
        if active:
            device = state.parents[2]
            devices.update({i.name: device.name for i in device.glob("device/net/*")})
    return devices
