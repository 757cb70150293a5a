from __future__ import annotations

import json

import pytest

from cluster.core.versions import versions
from cluster.node.software import PACKAGES, backends, how_installed, read_software

EDITABLE = json.dumps({"dir_info": {"editable": True}, "url": "file:x"})
WHEEL = json.dumps({"archive_info": {}, "url": "file:tandem.whl"})


@pytest.mark.parametrize(
    ("direct_url", "installer", "prefix", "container", "said"),
    [
        (EDITABLE, "pip\n", "/opt/tandem/.venv", False, "checkout"),
        (WHEEL, "uv", "/people/a/.local/share/uv/tools/tandem", False, "uv tool"),
        ("", "pip", "/people/a/.local/pipx/venvs/tandem", False, "pipx"),
        ("", "pip", "/opt/homebrew/Cellar/tandem/1.0/libexec", False, "Homebrew"),
        (WHEEL, "pip\n", "/opt/tandem", True, "pip, in a container"),
        ("no json", "", "/opt/tools/uv", False, "unknown installer"),
        ("[]", "uv", "/opt/uv/tandem/tools", False, "uv"),
    ],
)
def test_how_it_was_installed(
    direct_url: str, installer: str, prefix: str, container: bool, said: str
) -> None:
    assert how_installed(direct_url, installer, prefix, container) == said


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"mlx-metal"}, ("Metal",)),
        ({"mlx-cpu"}, ("CPU",)),
        ({"mlx-cuda-12", "mlx-cpu"}, ("CUDA 12", "CPU")),
        (set(), ()),
    ],
)
def test_what_mlx_was_installed_for(there: set[str], found: tuple[str, ...]) -> None:
    assert backends(lambda package: "1.0" if package in there else "") == found


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_BLAS", "/there/is/none.so")
    found = read_software()
    assert (found.tandem, found.protocol) == (versions().tandem, versions().protocol)
    assert found.packages["mlx"] == versions().mlx
    assert set(found.packages) == set(PACKAGES)
    assert "none" not in found.packages.values()
    assert found.cores > 0 and found.memory_bytes >= found.usable_bytes > 0
    assert found.blas.name in ("none", "Metal", "CUDA")
    assert found.backends
