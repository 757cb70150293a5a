"""Workers on other addresses: joining, being called, and being refused."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from tests.e2e.cluster_process import Process, Server, free_port, wait_until

SIZE = {
    "type": "object",
    "properties": {"size": {"type": "integer", "minimum": 10, "maximum": 99}},
    "required": ["size"],
    "additionalProperties": False,
}
TOKEN = {"TANDEM_JOIN_TOKEN": "correct horse battery staple"}


def test_two_workers_join_and_serve_one_model() -> None:
    control = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        arguments = ("--local-ranks", "0", "--nodes", "2", "--control", control)
        server = stack.enter_context(Server(*arguments, env=TOKEN))
        for host in ("127.0.0.2", "127.0.0.3"):
            arguments = ("--join", control, "--host", host, "--port", "0")
            stack.enter_context(Process("worker", *arguments, env=TOKEN))
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


def test_a_worker_that_is_called_serves_beside_a_local_rank() -> None:
    port = free_port("127.0.0.2")
    with ExitStack() as stack:
        worker = stack.enter_context(Process("worker", "--host", "127.0.0.2", "--port", str(port)))
        wait_until(lambda: f"127.0.0.2:{port}" in worker.output, 20, "the worker listens")
        server = stack.enter_context(Server("--nodes", f"127.0.0.2:{port}"))
        server.wait_ready()
        assert server.cluster()["world"] == 2
        assert server.chat("hello", max_tokens=4)["usage"]["completion_tokens"] == 4


def test_a_wrong_token_is_refused_in_one_line() -> None:
    control = f"127.0.0.1:{free_port()}"
    with (
        Server("--local-ranks", "0", "--nodes", "1", "--control", control, env=TOKEN),
        Process(
            "worker", "--join", control, "--port", "0", env={"TANDEM_JOIN_TOKEN": "another one"}
        ) as worker,
    ):
        wait_until(lambda: worker.popen.poll() is not None, 30, "refused")
        assert worker.popen.returncode == 1
        last = worker.output.strip().splitlines()[-1]
        assert last.startswith("tandem: ") and "token" in last
        assert "Traceback" not in worker.output
        assert "another one" not in worker.output and TOKEN["TANDEM_JOIN_TOKEN"] not in last


@pytest.mark.parametrize("host", ["0.0.0.0"])
def test_beyond_loopback_a_token_is_needed(host: str) -> None:
    no_token = {"TANDEM_JOIN_TOKEN": ""}
    with Process("worker", "--host", host, "--port", "0", env=no_token) as worker:
        assert worker.popen.wait(30) == 1
    assert "token" in worker.output and "Traceback" not in worker.output
