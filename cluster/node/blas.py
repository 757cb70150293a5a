"""Which matrix library engines will use, and what to preload so that it is a fast one.

`mlx[cpu]` from PyPI links a reference BLAS, 20 to 40 times slower than OpenBLAS or MKL; those
export the same symbols, so preloading one into an engine replaces it.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from cluster.core.cluster import Blas
from cluster.core.errors import BadConfiguration

OVERRIDE = "TANDEM_BLAS"
"""Environment: a library to preload, or "none"."""

ADVICE = (
    "install OpenBLAS for 20 to 40 times faster engines (Debian, Ubuntu: apt install "
    "libopenblas0-pthread; Fedora: dnf install openblas-threads{pip})"
)

_SLEEP_SOON = ("OPENBLAS_THREAD_TIMEOUT", "12")
"""An idle thread of OpenBLAS spins for 2^12 clock cycles before it sleeps, a few microseconds;
by itself it does for 2^28, a tenth of a second in which nobody else has that core. See
OpenBLAS issue 5171."""
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def find_blas(environ: Mapping[str, str] = os.environ) -> Blas:
    """The library that engines of this machine will use.

    Raises BadConfiguration when TANDEM_BLAS names a file that does not exist.
    """
    if platform.system() == "Darwin":
        return _on_macos(platform.machine())
    if any(_installed(f"mlx-cuda-{version}") for version in (12, 13)):
        return Blas("CUDA", "", fast=True, advice="")
    if OVERRIDE in environ:
        return _override(environ[OVERRIDE])
    return choose(ctypes.util.find_library, candidates(), platform.machine())


def choose(find_library: Callable[[str], str | None], paths: Iterable[Path], machine: str) -> Blas:
    """OpenBLAS or MKL: the linker's own, else the first of `paths` that exists."""
    # Fedora calls the one with threads openblasp; Debian has one name for all.
    if name := find_library("openblasp") or find_library("openblas"):
        return Blas("OpenBLAS", name, fast=True, advice="")
    found = next((path for path in paths if path.is_file()), None)
    if found is not None:
        return Blas(_name(found), str(found), fast=True, advice="")
    if name := find_library("mkl_rt"):
        return Blas("MKL", name, fast=True, advice="")
    return Blas("reference", "", fast=False, advice=_advice(machine))


def candidates(prefix: str = sys.prefix, machine: str = platform.machine()) -> list[Path]:
    """Where OpenBLAS and MKL are put by distributions, conda, pip and Intel's installer."""
    multiarch = Path("/usr/lib") / f"{machine}-linux-gnu"
    return [
        multiarch / "openblas-pthread" / "libopenblas.so.0",
        multiarch / "libopenblas.so.0",
        Path("/usr/lib64/libopenblasp.so.0"),
        Path("/usr/lib64/libopenblas.so.0"),
        Path("/usr/lib/libopenblas.so.0"),
        Path("/usr/local/lib/libopenblas.so.0"),
        Path("/opt/OpenBLAS/lib/libopenblas.so.0"),
        Path(prefix) / "lib" / "libopenblas.so.0",
        Path(prefix) / "lib" / "libmkl_rt.so.2",
        Path("/opt/intel/oneapi/mkl/latest/lib/libmkl_rt.so.2"),
        Path("/opt/intel/oneapi/mkl/latest/lib/intel64/libmkl_rt.so.2"),
    ]


def engine_environment(
    blas: Blas, threads: int, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of an engine: this one, the library preloaded, its threads bounded
    (0 leaves their number to the library)."""
    environment = dict(environ)
    if blas.preload:
        loaded = [part for part in environment.get("LD_PRELOAD", "").split(":") if part]
        if blas.preload not in loaded:
            loaded.insert(0, blas.preload)
        environment["LD_PRELOAD"] = ":".join(loaded)
    if threads > 0:
        environment |= dict.fromkeys(_THREADS, str(threads))
    if blas.name == "OpenBLAS":
        environment.setdefault(*_SLEEP_SOON)
    return environment


def _on_macos(machine: str) -> Blas:
    """Metal on Apple silicon, where Accelerate serves the little that runs on the CPU."""
    return Blas("Metal" if machine == "arm64" else "Accelerate", "", fast=True, advice="")


def _override(value: str) -> Blas:
    if value in ("", "none"):
        return Blas("reference", "", fast=False, advice=f"{OVERRIDE}={value} turned a faster off")
    if "/" in value and not Path(value).is_file():
        raise BadConfiguration(f"{OVERRIDE}={value}: there is no such file")
    return Blas(_name(Path(value)), value, fast=True, advice="")


def _name(path: Path) -> str:
    if "mkl" in path.name:
        return "MKL"
    return "OpenBLAS" if "openblas" in path.name else path.name


def _advice(machine: str) -> str:
    return ADVICE.format(pip="; without root: pip install mkl" if machine == "x86_64" else "")


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
