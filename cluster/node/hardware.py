"""What this machine is: chip, cores, memory, name. Asked once, when the agent starts."""

from __future__ import annotations

import hashlib
import platform
import re
import socket
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

_ASK_SECONDS = 5.0
_SYSCTL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine, as its agent reports it."""

    hostname: str
    chip: str
    cores: int
    memory_bytes: int
    """Installed, or what this container may use."""
    usable_bytes: int
    """What engines may use together."""
    system: str
    machine_id: str
    """Of the machine, not of Tandem; never leaves it."""
    boot_id: str = ""
    """Of the running system; empty when it can't be known."""


def read_hardware() -> Hardware:
    """What this machine is. Never fails: what can't be found out is "unknown" or estimated."""
    return _read_macos() if platform.system() == "Darwin" else _read_linux()


def node_id(hardware: Hardware, host: str, port: int) -> str:
    """Stable for one machine and agent address; `port` is 0 when any free one is taken."""
    short = hardware.hostname.split(".")[0] or "node"
    return f"{short}-{_digest('node', f'{hardware.machine_id} {host} {port}')[:8]}"


def _digest(use: str, text: str) -> str:
    """Of `text`, for one use of Tandem's: what it is of can't be told, nor linked to others."""
    return hashlib.sha256(f"tandem {use} {text}".encode()).hexdigest()


def metal_usable(memory_bytes: int, wired_limit_mb: int) -> int:
    """Bytes that Metal may keep resident: the set iogpu.wired_limit_mb, else macOS's default.

    The default is two thirds of small memories and three quarters from 36 GB on, as
    recommendedMaxWorkingSetSize shows on M1 to M4 machines.
    """
    if wired_limit_mb > 0:
        return min(memory_bytes, wired_limit_mb << 20)
    if memory_bytes >= 36 << 30:
        return memory_bytes * 3 // 4
    return memory_bytes * 2 // 3


def linux_usable(memory_bytes: int) -> int:
    """Bytes that engines may use of main memory: a tenth, at least 1 GiB, is left to others."""
    return max(memory_bytes // 2, memory_bytes - max(memory_bytes // 10, 1 << 30))


def parse_cpuinfo(text: str) -> str:
    """The chip's name in /proc/cpuinfo; "" when it has none (many arm64 boards)."""
    for name in ("model name", "Hardware", "Model"):
        if found := re.search(rf"^{name}\s*:\s*(\S.*)$", text, re.MULTILINE):
            return " ".join(found[1].split())
    return ""


def parse_memory_limit(text: str, memory_bytes: int) -> int:
    """Memory under a cgroup limit as in memory.max ("max" or a number of bytes)."""
    limit = text.strip()
    return min(int(limit), memory_bytes) if limit.isdigit() and int(limit) > 0 else memory_bytes


def parse_nvidia(text: str) -> tuple[str, int] | None:
    """(name, bytes) of the first GPU in `nvidia-smi --query-gpu=name,memory.total
    --format=csv,noheader,nounits`; None when there is none."""
    found = re.match(r"\s*(\S[^,\n]*?)\s*,\s*(\d+)\s*(?:\n|$)", text)
    return (found[1], int(found[2]) << 20) if found else None


def parse_platform_uuid(text: str) -> str:
    """IOPlatformUUID in the output of `ioreg -rd1 -c IOPlatformExpertDevice`; "" without."""
    found = re.search(r'"IOPlatformUUID"\s*=\s*"([^"]+)"', text)
    return found[1] if found else ""


def ask(*command: str, seconds: float = _ASK_SECONDS) -> str:
    """A command's output, or "" when it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds,
            stdin=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _sysctl(name: str) -> str:
    return ask("sysctl", "-n", name, seconds=_SYSCTL_SECONDS)


def _read_macos() -> Hardware:
    memory = int(_sysctl("hw.memsize") or psutil.virtual_memory().total)
    wired = _sysctl("iogpu.wired_limit_mb")
    return Hardware(
        hostname=socket.gethostname(),
        chip=_sysctl("machdep.cpu.brand_string") or platform.machine(),
        cores=psutil.cpu_count() or 1,
        memory_bytes=memory,
        usable_bytes=metal_usable(memory, int(wired) if wired.isdigit() else 0),
        system=f"macOS {platform.mac_ver()[0]}",
        machine_id=parse_platform_uuid(ask("ioreg", "-rd1", "-c", "IOPlatformExpertDevice"))
        or f"mac-{uuid.getnode():x}",
        boot_id=_boot_id(ask("sysctl", "-n", "kern.bootsessionuuid")),
    )


def _read_linux() -> Hardware:
    installed = psutil.virtual_memory().total
    memory = parse_memory_limit(_text("/sys/fs/cgroup/memory.max"), installed)
    chip = parse_cpuinfo(_text("/proc/cpuinfo")) or platform.machine()
    gpu = parse_nvidia(
        ask("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    )
    machine_id = _text("/etc/machine-id").strip() or f"mac-{uuid.getnode():x}"
    release = platform.release().split("-")[0]
    return Hardware(
        hostname=socket.gethostname(),
        chip=f"{chip}, {gpu[0]}" if gpu else chip,
        cores=len(psutil.Process().cpu_affinity() or ()) or psutil.cpu_count() or 1,
        memory_bytes=memory,
        usable_bytes=linux_usable(memory),
        system=f"Linux {release}",
        machine_id=machine_id,
        boot_id=_boot_id(_text("/proc/sys/kernel/random/boot_id")),
    )


def _boot_id(text: str) -> str:
    return _digest("boot", text.strip())[:16] if text.strip() else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
