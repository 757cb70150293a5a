"""Several models on one server, with real engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.node.hardware import read_hardware
from tests.e2e.cluster_process import Server, serving, wait_until

CLIENTS = 6
TURNS = 3


@pytest.fixture(scope="module")
def both(
    random_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The demo model and a random one of a folder, with room for one: each takes about half of
    what engines may use for its cache alone."""
    gigabytes = 0.45 * read_hardware().usable_bytes / 2**30
    folder = tmp_path_factory.mktemp("models")
    (folder / "qwen3").symlink_to(random_model("qwen3"))
    room = f"{gigabytes:.3f}"
    with serving("--model", "demo", "--models-dir", str(folder), "--kv-gb", room) as server:
        yield server


def states(server: Server) -> dict[str, str]:
    return {m["id"]: m["state"] for m in server.http.get("/models").json()["models"]}


def ask(server: Server, model: str, text: str) -> str:
    answer = server.chat(text, model=model, max_tokens=12, temperature=0)
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_alternate_use_by_several_clients(both: Server) -> None:
    """No failure, and at no time more engines than one; every answer is the model's own."""
    alone = {model: ask(both, model, "Who are you?") for model in ("tandem-demo", "qwen3")}
    most, over = [0], threading.Event()

    def count() -> None:
        while not over.wait(0.05):
            most[0] = max(most[0], len(both.engines()))

    def client(number: int) -> None:
        for turn in range(TURNS):
            model = ("tandem-demo", "qwen3")[(number + turn) % 2]
            assert ask(both, model, "Who are you?") == alone[model]

    counting = threading.Thread(target=count)
    counting.start()
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, range(CLIENTS)))
    finally:
        over.set()
        counting.join()
    assert most[0] == 1
    both.wait_idle()
    assert both.cluster()["counters"]["orphan_tokens"] == 0
    assert sorted(states(both).values()) == ["loaded", "unloaded"]


def test_a_stream_lives_while_its_model_is_loaded(both: Server) -> None:
    there = next(model for model, state in states(both).items() if state == "unloaded")
    body: dict[str, Any] = {
        "model": there,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "max_tokens": 4,
    }
    begun = time.monotonic()
    with both.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        headers = time.monotonic() - begun
        text = "".join(answer.iter_text())
    assert answer.status_code == 200 and "[DONE]" in text and "error" not in text
    whole = time.monotonic() - begun
    assert headers < whole / 2  # they do not wait for engines
    if whole > 5:
        assert f": loading {there}" in text


def test_who_hangs_up_leaves_nothing(both: Server) -> None:
    there = next(model for model, state in states(both).items() if state == "unloaded")
    body = {"model": there, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with both.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        wait_until(lambda: states(both)[there] == "loading", 20, "its engine starts")
    both.wait_idle()
    wait_until(lambda: states(both)[there] == "loaded", 60, "what was begun is loaded")


def test_loading_by_hand(both: Server) -> None:
    assert both.http.post("/models/load", json={"model": "qwen3", "pin": True}).status_code == 202
    wait_until(lambda: states(both)["qwen3"] == "loaded", 60, "loaded")
    refused = both.http.post(
        "/v1/chat/completions",
        json={"model": "tandem-demo", "messages": [{"role": "user", "content": "hi"}]},
    )
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "model_does_not_fit"
    assert "qwen3 pinned" in error["message"] and "GiB" in error["message"]
    assert both.http.post("/models/unload", json={"model": "qwen3"}).status_code == 200
    wait_until(lambda: not both.engines(), 20, "unloaded")
    assert both.http.get("/health").status_code == 200  # the first is loaded when asked for
