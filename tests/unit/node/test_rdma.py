"""RDMA devices from what libibverbs prints and from a made-up folder of /sys."""

from __future__ import annotations

from pathlib import Path

from cluster.node.rdma import linux_devices, macos_devices

DEVINFO = """hca_id:\trdma_en2
\ttransport:\t\t\tInfiniBand (0)
\tphys_port_cnt:\t\t\t1
\t\tport:\t1
\t\t\tstate:\t\t\tPORT_ACTIVE (4)
\t\t\tmax_mtu:\t\t4096 (5)

hca_id:\trdma_en3
\ttransport:\t\t\tInfiniBand (0)
\tphys_port_cnt:\t\t\t1
\t\tport:\t1
\t\t\tstate:\t\t\tPORT_DOWN (1)

hca_id:\tmlx5_0
\t\tport:\t1
\t\t\tstate:\t\t\tPORT_ACTIVE (4)
"""


def test_only_active_ports_of_interfaces_count() -> None:
    assert macos_devices(DEVINFO) == {"en2": "rdma_en2"}


def test_no_devices() -> None:
    assert macos_devices("") == {}
    assert macos_devices("No IB devices found\n") == {}
    assert macos_devices("hca_id:\n") == {}


def test_linux(tmp_path: Path) -> None:
    for device, interface, state in (("mlx5_0", "ib0", "4: ACTIVE"), ("mlx5_1", "ib1", "1: DOWN")):
        port = tmp_path / device / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
        (tmp_path / device / "device" / "net" / interface).mkdir(parents=True)
    assert linux_devices(tmp_path) == {"ib0": "mlx5_0"}
    assert linux_devices(tmp_path / "none") == {}
