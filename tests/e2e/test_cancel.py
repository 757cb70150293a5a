"""A client that hangs up must not hold the cluster: cancel in queue, prefill and decode.

On a random 30M llama with a 32k context, on one rank and on two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.cluster_process import Server, wait_until
from tests.e2e.raw_client import RawClient

LONG = 12_000
"""Words; at about 300 tokens a second their prefill takes far more than 20 s."""
IN_FLIGHT = 2
SECONDS_TO_A_STRANGER = 1.5


def words(count: int, salt: str = "") -> str:
    """A prompt of about `count` tokens that shares no prefix with one of another salt."""
    return salt + " ".join(str(number % 10) for number in range(count // 2))


def live(server: Server) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = server.cluster()["requests"]
    return [r for r in requests if r["progress"]["phase"] != "draining"]


def wait_prefill(server: Server, share: float) -> dict[str, Any]:
    """The live request, once `share` of its prompt is prefilled."""

    def far_enough() -> dict[str, Any] | None:
        for request in live(server):
            progress = request["progress"]
            if progress["prefilled"] >= share * progress["prompt_tokens"] > 0:
                return request
        return None

    found: dict[str, Any] = wait_until(far_enough, 120, f"{share:.0%} prefilled")
    return found


def hang_up(client: RawClient) -> None:
    client.close()


def half_close(client: RawClient) -> None:
    client.half_close()


LEAVING: dict[str, tuple[dict[str, Any], Callable[[RawClient], None]]] = {
    "streaming": ({"stream": True}, hang_up),
    "not streaming": ({}, hang_up),
    "half closed": ({"stream": True}, half_close),
}


@pytest.mark.parametrize("how", LEAVING)
def test_cancel_in_prefill(llama: Server, how: str) -> None:
    fields, leave = LEAVING[how]
    with RawClient(llama, words(LONG, salt=how), max_tokens=8, **fields) as client:
        request = wait_prefill(llama, 0.2)
        assert request["progress"]["prompt_tokens"] > LONG / 2
        left = time.monotonic()
        leave(client)
        done = _steps_done(llama)
        with RawClient(llama, "hello", max_tokens=1, stream=True) as stranger:
            stranger.read_until(b"data: ", 10)  # its one token may be half a character
            took = time.monotonic() - left
        view = llama.wait_idle()
        print(f"{how}, {view['world']} ranks: a stranger's first token {took:.2f} s after")
        assert took < SECONDS_TO_A_STRANGER
    # What the engines did after the hang-up: the steps in flight, the step that parks (it
    # computes nothing), the stranger's prefill and the step that parks that.
    assert max(_seqs(view)) - done <= IN_FLIGHT + 1 + 2


def _steps_done(server: Server) -> int:
    """Steps that every engine has answered. Asked after the hang-up: asked before, a step could
    end, and the next be sent, between the question and the hang-up."""
    return min(_seqs(server.cluster()))


def _seqs(view: dict[str, Any]) -> list[int]:
    return [rank["last_seq"] for rank in view["ranks"]]


def test_no_step_computes_after_the_ones_in_flight(llama: Server) -> None:
    with RawClient(llama, words(LONG, "count"), max_tokens=8, stream=True) as client:
        wait_prefill(llama, 0.1)
        client.close()
        done = _steps_done(llama)
        view = llama.wait_idle()
    seqs = _seqs(view)
    assert len(set(seqs)) == 1  # every engine has done the same steps
    print(f"{view['world']} ranks: {seqs[0] - done} steps after the hang-up, one of them an edit")
    assert seqs[0] - done <= IN_FLIGHT + 1
    time_before = view["steps_sent"]
    assert llama.cluster()["steps_sent"] == time_before  # and then none at all


def test_retry_with_another_tail_computes_only_the_rest(llama: Server) -> None:
    prompt = words(2400, "retry")
    with RawClient(llama, prompt, max_tokens=4, stream=True) as client:
        wait_prefill(llama, 0.5)
        client.close()
    llama.wait_idle()
    answer = llama.chat(prompt + " and another end", max_tokens=4)
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= 0.5 * answer["usage"]["prompt_tokens"] - 10
    again = llama.chat(prompt + " and another end", max_tokens=4)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == (
        again["usage"]["prompt_tokens"] - 1
    )


def test_cancel_in_decode(llama: Server) -> None:
    """Idle again as soon as the steps in flight are done; tests/integration/test_cancel.py counts
    those steps, which a look from outside is too slow for."""
    bias = {"2": -100.0, "0": -100.0, "1": -100.0}
    with RawClient(llama, "hi", max_tokens=4000, stream=True, logit_bias=bias) as client:
        wait_until(lambda: any(r["progress"]["generated"] > 20 for r in live(llama)), 60, "decode")
        left = time.monotonic()
        client.close()
        llama.wait_idle()
        took = time.monotonic() - left
    print(f"idle {took * 1e3:.0f} ms after a hang-up in decode")
    assert took < 0.5


def test_cancel_while_queued(llama: Server) -> None:
    first = RawClient(llama, words(LONG, "one"), max_tokens=4, stream=True)
    second = RawClient(llama, words(LONG, "two"), max_tokens=4, stream=True)
    with first, second:
        wait_until(lambda: len(live(llama)) == 2, 30, "two live requests")
        with RawClient(llama, "three", max_tokens=4, stream=True) as third:
            queued = wait_until(lambda: len(live(llama)) == 3, 10, "a third")
            assert queued
            assert live(llama)[-1]["progress"]["phase"] == "queued"
            third.close()
            wait_until(lambda: len(llama.cluster()["requests"]) == 2, 2, "the third is gone")
    llama.wait_idle()
