"""Workers on other addresses: joining, being called, and being refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster import demo
from cluster.model.digest import digest
from cluster.trust.authority import Authority
from cluster.trust.identity import Draft, write_identity
from tests.e2e.cluster_process import Process, Server, free_port, wait_until

SIZE = {
    "type": "object",
    "properties": {"size": {"type": "integer", "minimum": 10, "maximum": 99}},
    "required": ["size"],
    "additionalProperties": False,
}


def trust(folder: Path) -> dict[str, str]:
    """A folder for certificates of its own, as every machine has: used on loopback too."""
    return {"TANDEM_TRUST": str(folder)}


def tandem(*arguments: str, env: dict[str, str]) -> str:
    """What a command that ends by itself has said on standard output."""
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def test_two_workers_join_and_serve_one_model(tmp_path: Path) -> None:
    """All over mutual TLS: registry, agents, engines. One of them is revoked in the end."""
    control = f"127.0.0.1:{free_port()}"
    token = tandem("token", "create", "--reusable", env=trust(tmp_path / "server"))
    with ExitStack() as stack:
        arguments = ("--local-ranks", "0", "--nodes", "2", "--control", control)
        server = stack.enter_context(Server(*arguments, env=trust(tmp_path / "server")))
        workers = []
        for host in ("127.0.0.2", "127.0.0.3"):
            arguments = ("--join", control, "--host", host, "--port", "0", "--token", token)
            process = Process("worker", *arguments, env=trust(tmp_path / host))
            workers.append(stack.enter_context(process))
        server.wait_ready()
        view = server.cluster()
        assert view["world"] == 2
        agents = {node["agent_address"].split(":")[0] for node in view["nodes"]}
        assert agents == {"127.0.0.2", "127.0.0.3"}
        assert {rank["endpoint"].split(":")[0] for rank in view["ranks"]} == agents
        assert not server.engines()  # they are the workers' children
        answer = server.chat("What is Tandem?", temperature=0, max_tokens=16)
        assert answer["choices"][0]["message"]["content"].startswith("Tandem")
        form = {"type": "json_schema", "json_schema": {"name": "size", "schema": SIZE}}
        answer = server.chat("How large is it?", response_format=form, temperature=1.0, seed=1)
        assert 10 <= json.loads(answer["choices"][0]["message"]["content"])["size"] <= 99
        assert all(token not in process.output for process in (server, *workers))
        (name,) = re.findall(r"enrolled as ([a-z0-9-]+)", workers[1].output)
        tandem("node", "revoke", name, env=trust(tmp_path / "server"))
        assert workers[1].popen.wait(20) == 1
        assert f"{name} was revoked" in workers[1].output.splitlines()[-1]
        assert f"{name} was revoked" in server.output


def test_a_server_without_ranks_gives_the_model(tmp_path: Path) -> None:
    """To a worker that has it not, and can't ask the Hub."""
    hub = tmp_path / "hub" / "hub" / "models--acme--tiny"
    shutil.copytree(demo.folder(), hub / "snapshots" / "1")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("1")
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "nowhere")}
    control, models = f"127.0.0.1:{free_port()}", tmp_path / "models"
    with ExitStack() as stack:
        arguments = ("--local-ranks", "0", "--nodes", "1", "--control", control)
        here = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
        server = Server("--model", "acme/tiny", *arguments, env=here)
        stack.enter_context(server)
        join = ("worker", "--join", control, "--host", "127.0.0.2", "--port", "0")
        stack.enter_context(Process(*join, env={**nowhere, "TANDEM_MODELS": str(models)}))
        server.wait_ready()
        view = server.cluster()
        assert view["world"] == 1 and not server.engines()
        assert [node["agent_address"].split(":")[0] for node in view["nodes"]] == ["127.0.0.2"]
        assert [member["ranks"] for member in view["members"]] == [1]
        assert digest(models / digest(demo.folder())) == digest(demo.folder())
        answer = server.chat("What is Tandem?", temperature=0, max_tokens=16)
        assert answer["choices"][0]["message"]["content"].startswith("Tandem")


def test_a_worker_that_is_called_serves_beside_a_local_rank() -> None:
    port = free_port("127.0.0.2")
    with ExitStack() as stack:
        worker = stack.enter_context(Process("worker", "--host", "127.0.0.2", "--port", str(port)))
        wait_until(lambda: f"127.0.0.2:{port}" in worker.output, 20, "the worker listens")
        server = stack.enter_context(Server("--nodes", f"127.0.0.2:{port}"))
        server.wait_ready()
        assert server.cluster()["world"] == 2
        assert server.chat("hello", max_tokens=4)["usage"]["completion_tokens"] == 4


def test_a_worker_that_has_joined_once_is_called_with_its_certificate(tmp_path: Path) -> None:
    control, port = f"127.0.0.1:{free_port()}", free_port("127.0.0.2")
    authority, draft = Authority.open(tmp_path / "server"), Draft()
    token = authority.create_token(60)
    issued = authority.enroll(str(token), draft.request, "worker")
    identity = draft.finish(issued.certificate, issued.authority, control, token.id)
    write_identity(tmp_path / "worker" / "node.json", identity)
    listen = ("--host", "127.0.0.2", "--port", str(port))
    with ExitStack() as stack:
        worker = Process("worker", *listen, env=trust(tmp_path / "worker"))
        called = stack.enter_context(worker)
        wait_until(lambda: f"127.0.0.2:{port}" in called.output, 20, "the worker listens")
        arguments = ("--nodes", f"127.0.0.2:{port}", "--control", control)
        server = stack.enter_context(Server(*arguments, env=trust(tmp_path / "server")))
        server.wait_ready()
        view = server.cluster()
        assert view["world"] == 2
        assert issued.node in {node["node_id"] for node in view["nodes"]}


def test_a_token_of_another_cluster_is_refused_in_one_line(tmp_path: Path) -> None:
    control = f"127.0.0.1:{free_port()}"
    token = tandem("token", "create", env=trust(tmp_path / "other"))
    serve = ("--local-ranks", "0", "--nodes", "1", "--control", control)
    with (
        Server(*serve, env=trust(tmp_path / "server")),
        Process(
            "worker", "--join", control, "--port", "0",
            env={**trust(tmp_path / "worker"), "TANDEM_JOIN_TOKEN": token},
        ) as worker,
    ):  # fmt: skip
        wait_until(lambda: worker.popen.poll() is not None, 30, "refused")
        assert worker.popen.returncode == 1
        last = worker.output.strip().splitlines()[-1]
        assert last == "tandem: the token is one of another cluster than the server's"
        assert "Traceback" not in worker.output
        assert token not in worker.output
    assert not (tmp_path / "worker" / "node.json").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.77"])
def test_beyond_loopback_a_certificate_is_needed(tmp_path: Path, host: str) -> None:
    with Process("worker", "--host", host, "--port", "0", env=trust(tmp_path)) as worker:
        assert worker.popen.wait(30) == 1
    assert worker.output.startswith("tandem: ") and "Traceback" not in worker.output
