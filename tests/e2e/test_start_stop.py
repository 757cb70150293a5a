"""Starting, failing to start, and stopping, as a person and as an init system would."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.cluster_process import Process, Server, free_port, serving, wait_until


def test_serve_answers_in_sentences_and_says_what_it_is(demo: Server) -> None:
    answer = demo.chat("What is Tandem?", temperature=0)
    text = answer["choices"][0]["message"]["content"]
    assert text.startswith("Tandem") and text.endswith(".") and len(text) > 40
    assert answer["usage"]["completion_tokens"] > 10
    assert "matrix library" in demo.output
    assert "demo model" in demo.output
    assert demo.http.get("/v1/models").json()["data"][0]["id"] == answer["model"]


def test_garbage_on_every_port_disturbs_nothing(demo: Server) -> None:
    ports = {c.laddr.port for p in demo.family() for c in p.net_connections() if not c.raddr}
    assert len(ports) == 3  # HTTP, agent, engine
    for port in ports:
        for garbage in (b"\x00" * 4096, b"GET /" + b"a" * 70000, os.urandom(2000), b""):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                try:
                    sock.sendall(garbage)
                except OSError:
                    continue  # hung up on us already, as it should
    assert demo.chat("hello", max_tokens=4)["usage"]["completion_tokens"] == 4
    assert demo.cluster()["epoch"] == 1


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_stops_everything_within_five_seconds(number: int, ranks: int) -> None:
    with serving("--local-ranks", str(ranks)) as server:
        family = server.family()
        assert len(family) == 2 + ranks
        ended: list[str] = []
        stream = threading.Thread(target=lambda: ended.append(_stream_to_its_end(server)))
        stream.start()
        wait_until(lambda: server.cluster()["requests"], 10, "a live request")
        server.popen.send_signal(number)
        assert server.popen.wait(5) in (0, 130)
        _, alive = psutil.wait_procs(family, timeout=1)
        assert not alive
        stream.join(5)
        assert '"error"' in ended[0] and "stopping" in ended[0]  # told, not just dropped
        assert "[DONE]" not in ended[0]
        assert "Traceback" not in server.output


def _stream_to_its_end(server: Server) -> str:
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    body |= {"temperature": 2.0, "max_tokens": 1500, "logit_bias": _never_end(server)}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=30) as r:
        return "".join(r.iter_text())


def _never_end(server: Server) -> dict[str, float]:
    """A bias that keeps the demo model from ending its answer."""
    import cluster.demo
    from cluster.text.tokenizer import Tokenizer

    return {str(token): -100.0 for token in Tokenizer.load(cluster.demo.folder()).end_ids}


def test_a_killed_coordinator_leaves_no_engine_behind() -> None:
    with serving("--local-ranks", "2") as server:
        family = server.family()
        os.kill(server.popen.pid, signal.SIGKILL)
        server.popen.wait()
        _, alive = psutil.wait_procs(family, timeout=15)
        assert not alive


def test_a_killed_agent_leaves_no_engine_behind_and_is_replaced() -> None:
    with serving() as server:
        engines = server.engines()
        agent = engines[0].parent()
        assert agent is not None
        agent.kill()
        _, alive = psutil.wait_procs(engines, timeout=5)
        assert not alive
        wait_until(server.engines, 30, "a new engine")
        server.wait_ready(60)
        assert server.chat("hello", max_tokens=4)["usage"]["completion_tokens"] == 4


def test_a_killed_engine_is_replaced_and_the_answer_goes_on() -> None:
    with serving() as server:
        ended: list[str] = []
        stream = threading.Thread(target=lambda: ended.append(_stream_to_its_end(server)))
        stream.start()
        wait_until(lambda: server.cluster()["requests"], 10, "a live request")
        engine = server.engines()[0]
        engine.kill()
        stream.join(60)
        assert '"error"' not in ended[0] and "[DONE]" in ended[0]
        assert all(e != engine for e in server.engines())
        assert server.cluster()["epoch"] == 2
        assert server.chat("hello", max_tokens=4)["usage"]["completion_tokens"] == 4


def test_an_engine_that_ignores_sigterm_is_killed() -> None:
    with serving() as server:
        engine = server.engines()[0]
        engine.suspend()  # a stopped process sees no SIGTERM either
        assert server.stop(8) < 5
        assert not engine.is_running()


def test_failures_to_start_are_one_line(
    random_model: Callable[[str], Path], tmp_path: Path
) -> None:
    mute = shutil.copytree(random_model("qwen3"), tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    other = shutil.copytree(random_model("qwen3"), tmp_path / "other")
    spelling = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(spelling.replace("<|im_start|>", "<|begin|>"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        unreachable = f"127.0.0.9:{free_port()}"
        model = str(random_model("qwen3"))
        cases: dict[tuple[str, ...], tuple[str, ...]] = {
            ("--port", port): ("in use", port),
            ("--model", "/no/such/folder"): ("/no/such/folder",),
            ("--model", "nobody/no-such-model"): ("nobody/no-such-model",),
            ("--model", model, "--local-ranks", "3"): ("num_attention_heads is 4", "3"),
            ("--model", str(mute)): (str(mute), "no tokenizer.json"),
            ("--draft-model", str(other)): (f"{other} can't draft for demo", "<|begin|>"),
            ("--nodes", unreachable): (unreachable,),
            ("--nodes", "many"): ("--nodes many",),
            ("--local-ranks", "0"): ("--local-ranks",),
        }
        with ExitStack() as stack:
            processes: dict[tuple[str, ...], Process] = {}
            for arguments in cases:  # all at once
                extra = () if "--port" in arguments else ("--port", str(free_port()))
                process = stack.enter_context(Process("serve", *extra, *arguments))
                processes[arguments] = process
            for arguments, process in processes.items():
                assert process.popen.wait(60) == 1, (arguments, process.output)
        for arguments, words in cases.items():
            output = processes[arguments].output
            last = output.strip().splitlines()[-1]
            assert last.startswith("tandem: "), output
            assert all(word in last for word in words), (words, last)
            assert "Traceback" not in output
