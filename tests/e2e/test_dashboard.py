"""The dashboard in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import anyio.to_thread
import pytest

from api.access import AccessPolicy
from api.keys import KeyRing, add_key
from cluster.core.clock import SystemClock
from cluster.text.tokenizer import Tokenizer
from tests.e2e.cluster_process import Process, Server, free_port, serving, wait_until
from tests.e2e.large_cluster import large_app
from tests.unit.api.fake import running
from tests.unit.text.bpe import make_folder

WEB = Path(__file__).parent / "web"
CHROMIUM = shutil.which("chromium")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("npm") is None, reason="there is no chromium, or no npm"
)


@pytest.fixture(scope="module")
def packages() -> None:
    if not (WEB / "node_modules").is_dir():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, cwd=WEB, check=True, timeout=240)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(make_folder(tmp_path_factory.mktemp("bpe")))


def run(script: str, url: str, seconds: float, *more: str) -> list[str]:
    """What the checks of a script have said; all must be well."""
    command = ["node", script, url, CHROMIUM or "", *more]
    done = subprocess.run(
        command, cwd=WEB, capture_output=True, text=True, timeout=seconds, check=False
    )
    lines = done.stdout.splitlines()
    print(done.stdout)
    assert [line for line in lines if not line.startswith("ok ")] == [], done.stderr
    assert done.returncode == 0, done.stderr
    return lines


@needs_browser
def test_the_page_against_two_machines(packages: None) -> None:
    port = free_port("127.0.0.2")
    with ExitStack() as stack:
        worker = stack.enter_context(Process("worker", "--host", "127.0.0.2", "--port", str(port)))
        wait_until(lambda: f"127.0.0.2:{port}" in worker.output, 20, "the worker listens")
        server = stack.enter_context(Server("--nodes", f"127.0.0.2:{port}"))
        server.wait_ready()
        assert len(run("cluster.mjs", server.url, 200)) == 10
        server.wait_idle()


@needs_browser
async def test_the_page_against_a_large_cluster(packages: None, tokenizer: Tokenizer) -> None:
    with ExitStack() as held:
        async with running(large_app(tokenizer, held)) as port:
            url = f"http://127.0.0.1:{port}"
            said = await anyio.to_thread.run_sync(run, "large.mjs", url, 120)
    assert len(said) == 7


@needs_browser
async def test_the_page_asks_for_a_key(
    packages: None, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "laptop")
    access = AccessPolicy(keys=KeyRing(path, SystemClock()))
    with ExitStack() as held:
        async with running(large_app(tokenizer, held, access)) as port:
            url = f"http://127.0.0.1:{port}"
            assert len(await anyio.to_thread.run_sync(run, "keys.mjs", url, 60, key)) == 1


@needs_browser
def test_the_page_loads_another_model(packages: None, random_model: Callable[[str], Path]) -> None:
    other = str(random_model("llama_30m"))
    with serving("--model", "demo", "--model", other, "--kv-gb", "0.25") as server:
        assert len(run("models.mjs", server.url, 120)) == 3
