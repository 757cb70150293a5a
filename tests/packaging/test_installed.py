"""The wheel in an environment that knows nothing of this checkout."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time

import httpx
import pytest

from cluster.cli.main import VERBS
from cluster.core.versions import versions
from tests.e2e.cluster_process import free_port
from tests.packaging.conftest import Installed

START_SECONDS = 120.0


def test_it_says_what_it_is(installed: Installed) -> None:
    done = installed.run("tandem", "version", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["tandem"] == versions().tandem
    assert found["installed"].split(",")[0] in ("pip", "uv")
    assert found["executable"].startswith(str(installed.prefix))
    done = installed.run(
        "python", "-c", "import api, cluster; print(api.__file__, cluster.__file__)"
    )
    assert done.stdout.count(str(installed.prefix)) == 2


def test_help_names_every_verb(installed: Installed) -> None:
    done = installed.run("tandem", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f" {verb} " in done.stdout for verb in VERBS)


def test_man_finds_the_page(installed: Installed) -> None:
    path = installed.prefix / "share/man/man1/tandem.1"
    assert path.read_text().startswith('.\\" Made by')
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    shown = subprocess.run(
        ["man", "-M", str(path.parent.parent), "--warnings", "tandem"], capture_output=True,
        text=True, env=installed.environ | {"MANPAGER": "cat", "MANWIDTH": "80"}, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "several machines serve one large language model" in shown.stdout


@pytest.mark.e2e
def test_it_serves_the_demo_model(installed: Installed) -> None:
    port = free_port()
    log = installed.home / "log"
    with log.open("wb") as stderr:
        server = subprocess.Popen(
            installed.command("tandem", "serve", "--port", str(port)), cwd=installed.home,
            env=installed.environ, stdout=stderr, stderr=stderr, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + START_SECONDS
        while not _healthy(url):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        asked = {
            "model": "tandem-demo", "temperature": 0,
            "messages": [{"role": "user", "content": "Who are you?"}],
        }  # fmt: skip
        answer = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=30).json()
        assert "Tandem" in answer["choices"][0]["message"]["content"]
        assert httpx.get(f"{url}/docs").status_code == 200
        assert httpx.get(f"{url}/openapi.json").json()["info"]["version"] == versions().tandem
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0, log.read_text()
    finally:
        server.kill()
        server.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=1).status_code == 200
    except httpx.TransportError:
        return False
