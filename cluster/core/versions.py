"""The versions this process runs, as it reports them to its peers."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from cluster.core.cluster import PROTOCOL, Versions
from cluster.core.errors import VersionMismatch

UNINSTALLED = "0+source"
"""Reported by a source tree that runs without having been installed. The number itself is in
pyproject.toml alone; everything else reads the metadata of the installed package."""


@cache
def versions() -> Versions:
    """Versions of Tandem, mlx and mlx-lm as installed; reads package metadata, imports none.

    A missing mlx is reported as "none": such a process can coordinate but not compute.
    """
    return Versions(
        protocol=PROTOCOL,
        tandem=_installed("tandem", UNINSTALLED),
        mlx=_installed("mlx", "none"),
        mlx_lm=_installed("mlx-lm", "none"),
    )


def require_same(theirs: Versions, who: str) -> None:
    """Raise VersionMismatch, naming `who` and each version that differs from ours."""
    if differences := versions().differences(theirs):
        raise VersionMismatch(f"{who} runs other versions: {'; '.join(differences)}")


def _installed(package: str, otherwise: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise
