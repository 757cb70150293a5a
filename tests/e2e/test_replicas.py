"""Two groups of one model, one core each, with real engines."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.e2e.cluster_process import Server, serving, wait_until

QUESTIONS = [
    f"Repeat: {word} {word} {word}" for word in ("one", "two", "six", "ten", "red", "blue")
]
TOKENS = 400


@pytest.fixture(scope="module")
def two() -> Iterator[Server]:
    """The demo model, twice."""
    with serving("--local-ranks", "2", "--replicas", "2") as server:
        wait_until(lambda: len(groups(server)) == 2, 60, "both groups serve")
        yield server


def groups(server: Server) -> list[dict[str, Any]]:
    """Those that serve."""
    (model,) = server.http.get("/models").json()["models"]
    return [each for each in model["replicas"] if each["epoch"] and each["health"] == "serving"]


def long_answer(server: Server, question: str) -> str:
    fields = {"max_tokens": TOKENS, "temperature": 0.7, "seed": 7, "ignore_eos": True}
    content: str = server.chat(question, **fields)["choices"][0]["message"]["content"]
    return content


def test_two_groups_of_one_rank(two: Server) -> None:
    assert [(each["replica"], each["world"]) for each in groups(two)] == [(0, 1), (1, 1)]
    assert len({each["epoch"] for each in groups(two)}) == 2
    assert len(two.engines()) == 2
    (member,) = two.cluster()["members"]
    assert member["ranks"] == 2


def test_conversations_stay_where_their_prefix_is(two: Server) -> None:
    conversations = [[{"role": "user", "content": f"{who} says " + "word " * 80}] for who in "abcd"]
    for turn in range(3):
        for messages in conversations:
            body = {"messages": messages, "max_tokens": 8, "temperature": 0}
            answer = two.http.post("/v1/chat/completions", json=body).json()
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert cached > 80 or turn == 0
            messages.append(answer["choices"][0]["message"])
            messages.append({"role": "user", "content": "and then?"})


def test_killing_one_engine_loses_nothing(two: Server) -> None:
    """Every answer is what it would have been, and none fails."""
    alone = [long_answer(two, question) for question in QUESTIONS]
    both = two.engines()
    killed = threading.Event()

    def kill() -> None:
        def under_way() -> bool:
            live = two.http.get("/cluster").json()["requests"]
            at_work = [each for each in live if each["progress"]["generated"] > 20]
            return {each["replica"] for each in at_work} == {0, 1}

        wait_until(under_way, 60, "both groups are at work")
        psutil.Process(both[0].pid).send_signal(signal.SIGKILL)
        killed.set()
        wait_until(lambda: len(groups(two)) == 1, 10, "one group is gone")

    killing = threading.Thread(target=kill)
    killing.start()
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        answers = list(pool.map(lambda question: long_answer(two, question), QUESTIONS))
    killing.join()
    assert killed.is_set()
    assert answers == alone
    wait_until(lambda: len(groups(two)) == 2, 60, "the lost group is back")
    view = two.wait_idle()
    assert view["counters"]["orphan_tokens"] == 0
    metrics = two.http.get("/metrics").text
    replayed = [line for line in metrics.splitlines() if line.startswith("tandem_replayed")]
    assert sum(float(line.split()[-1]) for line in replayed) >= 1
