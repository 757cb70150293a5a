"""Which library is preloaded, and what is advised where there is none."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from cluster.core.cluster import Blas
from cluster.core.errors import BadConfiguration
from cluster.node.blas import candidates, choose, engine_environment, find_blas

linux_only = pytest.mark.skipif(platform.system() != "Linux", reason="Metal needs no library")


def nothing(name: str) -> None:
    return None


def test_the_linkers_own_openblas_first() -> None:
    names = {"openblas": "libopenblas.so.0", "mkl_rt": "libmkl_rt.so"}
    assert choose(names.get, [], "x86_64") == Blas("OpenBLAS", "libopenblas.so.0", True, "")


def test_fedoras_threaded_one_before_its_serial_one() -> None:
    names = {"openblas": "libopenblas.so.0", "openblasp": "libopenblasp.so.0"}
    assert choose(names.get, [], "x86_64").preload == "libopenblasp.so.0"


def test_a_usual_path(tmp_path: Path) -> None:
    mkl = tmp_path / "lib" / "libmkl_rt.so.2"
    mkl.parent.mkdir()
    mkl.touch()
    paths = [path for path in candidates(str(tmp_path), "x86_64") if tmp_path in path.parents]
    assert choose(nothing, paths, "x86_64") == Blas("MKL", str(mkl), True, "")


@pytest.mark.parametrize(("machine", "pip"), [("x86_64", True), ("aarch64", False)])
def test_advice(machine: str, pip: bool) -> None:
    blas = choose(nothing, [], machine)
    assert (blas.name, blas.preload, blas.fast) == ("reference", "", False)
    assert "apt install libopenblas0-pthread" in blas.advice
    assert ("pip install mkl" in blas.advice) is pip


@linux_only
def test_the_override(tmp_path: Path) -> None:
    library = tmp_path / "libopenblas-mine.so"
    library.touch()
    assert find_blas({"TANDEM_BLAS": str(library)}).preload == str(library)
    assert find_blas({"TANDEM_BLAS": "none"}).fast is False
    with pytest.raises(BadConfiguration, match="no such file"):
        find_blas({"TANDEM_BLAS": str(tmp_path / "gone.so")})


def test_the_environment_of_an_engine() -> None:
    blas = Blas("OpenBLAS", "libopenblas.so.0", True, "")
    plain = engine_environment(blas, 0, {"A": "b"})
    sleep = {"OPENBLAS_THREAD_TIMEOUT": "12"}
    assert plain == {"A": "b", "LD_PRELOAD": "libopenblas.so.0", **sleep}
    assert (
        engine_environment(blas, 0, {"OPENBLAS_THREAD_TIMEOUT": "20"})["OPENBLAS_THREAD_TIMEOUT"]
        == "20"
    )
    kept = engine_environment(blas, 2, {"LD_PRELOAD": "libother.so"})
    assert kept["LD_PRELOAD"] == "libopenblas.so.0:libother.so"
    assert kept["OMP_NUM_THREADS"] == kept["OPENBLAS_NUM_THREADS"] == kept["MKL_NUM_THREADS"] == "2"
    again = engine_environment(blas, 0, kept)
    assert again["LD_PRELOAD"] == kept["LD_PRELOAD"]
    assert "LD_PRELOAD" not in engine_environment(Blas("Metal", "", True, ""), 1, {})
