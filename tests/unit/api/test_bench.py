from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from api.convert.bench import BenchChat
from api.dialect import Choice
from cluster.core.errors import InvalidRequest
from cluster.core.request import Finish, StepTiming, Timing
from cluster.core.view import ClusterView, RankView
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import FakeCoordinator, question
from tests.unit.api.replies import finished

STEPS = (StepTiming("prefill", (0.25, 0.5), 2), StepTiming("decode", (0.125, 0.125), 1))
TIMING = Timing(0.25, 0.5, 1.0, 1.75, 0.75)
REPORT = {
    "prompt_tokens": 5,
    "cached_tokens": 3,
    "completion_tokens": 3,
    "ttft_seconds": 0.75,
    "prompt_tokens_per_second": 4.0,
    "generation_tokens_per_second": 2.0,
    "queue_seconds": 0.25,
    "prefill_seconds": 0.5,
    "decode_seconds": 1.0,
    "total_seconds": 1.75,
    "ranks": 2,
    "peak_memory_bytes": 200,
    "steps": [
        {"kind": "prefill", "tokens": 2, "seconds": [0.25, 0.5]},
        {"kind": "decode", "tokens": 1, "seconds": [0.125, 0.125]},
    ],
}


@pytest.fixture
def bench(tokenizer: Tokenizer) -> BenchChat:
    def view(model: str) -> ClusterView:
        ranks = tuple(RankView(i, "n", "", 1, 0, 0, 100 * (i + 1), 0, 0) for i in range(2))
        return replace(FakeCoordinator(tokenizer).view(), world=2, ranks=ranks)

    return BenchChat(view)


def test_what_is_asked(bench: BenchChat) -> None:
    made = bench.read(question())
    assert (made.cache, made.record_steps, made.ignore_eos) == (True, True, False)
    made = bench.read(question(use_prefix_cache=False, ignore_eos=True))
    assert (made.cache, made.record_steps, made.ignore_eos) == (False, True, True)
    with pytest.raises(InvalidRequest, match="use_prefix_cache"):
        bench.read(question(use_prefix_cache="no"))


async def reply_to(bench: BenchChat, **fields: Any) -> Any:
    ask = bench.read(question(**fields))
    return await finished(["a", "b", "c"], ask, timing=TIMING, cached=3, steps=STEPS)


async def test_the_report_of_a_whole_answer(bench: BenchChat) -> None:
    reply = await reply_to(bench)
    made = bench.whole(reply, [Choice(0, "abc", "", (), Finish.STOP)])
    assert made["bench"] == REPORT
    assert made["choices"][0]["message"]["content"] == "abc"


@pytest.mark.parametrize("usage", [True, False])
async def test_the_report_is_the_last_chunk(bench: BenchChat, usage: bool) -> None:
    reply = await reply_to(bench, stream_options={"include_usage": usage})
    frames = bench.writer(reply).end().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert [bool(chunk.get("usage")) for chunk in chunks] == ([True, False] if usage else [False])
    assert chunks[-1]["bench"] == REPORT
    assert chunks[-1]["choices"] == []


async def test_speeds_of_nothing_are_null(bench: BenchChat) -> None:
    nothing = Timing(0.0, 0.0, 0.0, 0.0, None)
    reply = await finished(["a"], bench.read(question()), timing=nothing, cached=5)
    made = bench.whole(reply, [Choice(0, "a", "", (), Finish.STOP)])["bench"]
    assert made["prompt_tokens_per_second"] is None
    assert made["generation_tokens_per_second"] is None
    assert made["ttft_seconds"] is None
    assert made["steps"] == []
