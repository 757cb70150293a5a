"""What runs on this machine: Tandem and how it was installed, Python, and the packages that matter.

Reads package metadata only; nothing heavy is imported.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from itertools import pairwise
from pathlib import PurePath

from cluster.core.cluster import Blas
from cluster.core.errors import BadConfiguration
from cluster.core.versions import versions
from cluster.node.blas import find_blas
from cluster.node.hardware import read_hardware

BACKENDS = {
    "mlx-metal": "Metal",
    "mlx-cuda-13": "CUDA 13",
    "mlx-cuda-12": "CUDA 12",
    "mlx-cpu": "CPU",
}
"""Which package of MLX's brings which backend; an engine takes the first that is there."""

PACKAGES = (
    "mlx", "mlx-lm", "transformers", "tokenizers", "llguidance", "numpy", "safetensors",
    "huggingface-hub", "grpcio", "protobuf", "cryptography", "zeroconf", "starlette", "uvicorn",
    "h11", "httpx", "anyio", "pydantic", "typer", "psutil",
)  # fmt: skip
"""Whose versions explain what happens."""


@dataclass(frozen=True, slots=True)
class Software:
    """What a bug report needs to say of the machine it comes from."""

    tandem: str
    protocol: int
    """Of the gRPC contract."""
    installed: str
    """How, in words: "checkout", "uv tool", "pip"."""
    python: str
    """"CPython 3.11.7"."""
    executable: str
    system: str
    """"macOS 26.2, arm64"."""
    chip: str
    cores: int
    memory_bytes: int
    usable_bytes: int
    """What engines may use together."""
    backends: tuple[str, ...]
    """What MLX was installed for, the first is used; none: this machine can't compute."""
    blas: Blas
    packages: dict[str, str]
    """Name -> version; "none" for one that is not there."""


def read_software() -> Software:
    """What runs here. Never fails: what can't be found out is said in its place."""
    hardware = read_hardware()
    libc = " ".join(platform.libc_ver()).strip()
    own = versions()
    return Software(
        tandem=own.tandem,
        protocol=own.protocol,
        installed=_installed(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        executable=sys.executable,
        system=", ".join(filter(None, (hardware.system, libc, platform.machine()))),
        chip=hardware.chip,
        cores=hardware.cores,
        memory_bytes=hardware.memory_bytes,
        usable_bytes=hardware.usable_bytes,
        backends=backends(_version),
        blas=_blas(),
        packages={name: _version(name) or "none" for name in PACKAGES},
    )


def backends(version_of: Callable[[str], str]) -> tuple[str, ...]:
    """What MLX was installed for; `version_of` a package is "" where it is not there."""
    return tuple(name for package, name in BACKENDS.items() if version_of(package))


def how_installed(direct_url: str, installer: str, prefix: str, container: bool) -> str:
    """How Tandem came here, in words.

    `direct_url`: the package's direct_url.json (PEP 610), "" for none; `installer`: its INSTALLER;
    `prefix`: of the environment it is in.
    """
    if _editable(direct_url):
        way = "checkout"
    else:
        parts = PurePath(prefix).parts
        pairs = set(pairwise(parts))
        if ("uv", "tools") in pairs:
            way = "uv tool"
        elif ("pipx", "venvs") in pairs:
            way = "pipx"
        elif "Cellar" in parts:
            way = "Homebrew"
        else:
            way = installer.strip() or "unknown installer"
    return f"{way}, in a container" if container else way


def _editable(direct_url: str) -> bool:
    try:
        return bool(json.loads(direct_url)["dir_info"]["editable"])
    except (ValueError, LookupError, TypeError):
        return False


def _installed() -> str:
    container = any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))
    try:
        own = distribution("tandem")
    except PackageNotFoundError:
        return "not installed: run from its source"
    url, installer = (own.read_text(name) or "" for name in ("direct_url.json", "INSTALLER"))
    return how_installed(url, installer, sys.prefix, container)


def _blas() -> Blas:
    try:
        return find_blas()
    except BadConfiguration as error:
        return Blas("none", "", fast=False, advice=str(error))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
