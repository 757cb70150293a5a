"""From the client's parameters to the plan, and from likelihoods back to the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import drive
from cluster.core.config import Limits
from cluster.core.ids import Epoch
from cluster.core.plan import Admit
from cluster.core.request import Order, Piece
from cluster.core.sampling import Sampling
from tests.conftest import wait_for
from tests.integration.fakes import END, FakeRanks, FakeTokenizer, answer, make_coordinator
from tests.unit.api.fake import CHAT, serving

LIMITS = Limits(parked=0, queue=2)
PROMPT = FakeTokenizer().render([{"content": "Hi"}])


@pytest.fixture
def ranks() -> FakeRanks:
    return FakeRanks()


@pytest.fixture
async def coordinator(ranks: FakeRanks) -> AsyncIterator[Coordinator]:
    coordinator = make_coordinator(limits=LIMITS)
    driving = asyncio.create_task(drive(coordinator, Epoch(1), ranks, trimmable=True))
    await wait_for(lambda: coordinator.scheduler)
    yield coordinator
    driving.cancel()
    await asyncio.wait([driving])


@pytest.fixture
async def url(coordinator: Coordinator) -> AsyncIterator[str]:
    async with serving(coordinator) as port:  # type: ignore[arg-type]
        yield f"http://127.0.0.1:{port}"


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], "model": "fake", **fields}


async def admitted(url: str, ranks: FakeRanks, **fields: Any) -> Admit:
    """What the plan says of a request."""
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        done = await http.post(CHAT, json=body(**fields))
    assert done.status_code == 200, done.text
    (admit,) = [admit for step in ranks.steps for admit in step.admit]
    return admit


async def test_defaults(url: str, ranks: FakeRanks) -> None:
    admit = await admitted(url, ranks, max_tokens=3)
    assert admit.end_ids == (END,)
    assert (admit.end_from, admit.logprobs, admit.grammar) == (0, None, "")
    assert admit.draft == LIMITS.draft > 0


async def test_min_tokens(url: str, ranks: FakeRanks) -> None:
    admit = await admitted(url, ranks, max_tokens=9, min_tokens=7)
    assert admit.end_from == len(PROMPT) + 7


async def test_a_stop_string_takes_the_sequence_out_at_once(url: str, ranks: FakeRanks) -> None:
    await admitted(url, ranks, max_tokens=2000, stop=[chr(answer(PROMPT, 5)[4])])
    await wait_for(lambda: any(step.release for step in ranks.steps))
    rows = [len(step.decode) * step.iterations for step in ranks.steps]
    # What was in flight when it came: 40 ms of iterations that take one each.
    assert 5 <= sum(rows) + 1 <= 5 + 80
    assert not ranks.steps[-1].decode


async def test_min_tokens_without_an_end_in_sight(url: str, ranks: FakeRanks) -> None:
    """It is cut to what the context leaves."""
    admit = await admitted(url, ranks, min_tokens=10**30, stop=[chr(answer(PROMPT, 5)[4])])
    assert admit.end_from == 4096


async def test_ignore_eos(url: str, ranks: FakeRanks) -> None:
    admit = await admitted(url, ranks, max_tokens=9, ignore_eos=True)
    assert admit.end_ids == ()


async def test_a_grammar_ends_with_an_end_id(coordinator: Coordinator, ranks: FakeRanks) -> None:
    order = Order((40, 50), Sampling(), 3, ignore_eos=True, grammar="g")
    assert [piece async for piece in coordinator.submit(order)]
    (admit,) = [admit for step in ranks.steps for admit in step.admit]
    assert (admit.end_ids, admit.grammar) == ((END,), "g")


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=10
    ) as client:
        yield client


def content(ids: list[int], count: int) -> list[dict[str, Any]]:
    """What is to be said of `ids`, by fakes.likelihood."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": chr(token),
            "logprob": pytest.approx(logprob),
            "bytes": list(chr(token).encode()),
        }

    return [
        {
            **entry(token, -token / 100),
            "top_logprobs": [entry(token + i, -token / 100 - i) for i in range(count)],
        }
        for token in ids
    ]


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("stops", [False, True])
async def test_logprobs(client: openai.AsyncOpenAI, count: int, stops: bool) -> None:
    """Also those of tokens whose text is held back or is a stop string."""
    ids = answer(PROMPT, 30)
    text = "".join(map(chr, ids))
    request = body(
        logprobs=True,
        top_logprobs=count,
        max_tokens=30,
        stop=[text[9:12] if stops else text[7:10] + "-", "no"],
    )
    if stops:
        text, ids = text[:9], ids[:12]
    whole = await client.chat.completions.create(**request)
    (choice,) = whole.choices
    assert choice.message.content == text
    assert choice.logprobs is not None
    assert choice.logprobs.to_dict() == {"content": content(ids, count), "refusal": None}
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len(ids)
    told: list[dict[str, Any]] = []
    streamed = ""
    async for chunk in await client.chat.completions.create(**request, stream=True):
        (part,) = chunk.choices
        streamed += part.delta.content or ""
        if part.logprobs is not None and part.logprobs.content is not None:
            told += [token.to_dict() for token in part.logprobs.content]
    assert streamed == text
    assert told == content(ids, count)


async def test_logprobs_that_nobody_took_are_kept(coordinator: Coordinator) -> None:
    generation = coordinator.submit(Order((40, 50), Sampling(), 20, logprobs=1))
    await wait_for(lambda: generation.finish)
    (piece,) = [piece async for piece in generation]
    assert "".join(token.token for token in piece.logprobs) == piece.text
    assert len(piece.logprobs) == piece.tokens == 20


async def test_no_logprobs_unasked(coordinator: Coordinator) -> None:
    generation = coordinator.submit(Order((40, 50), Sampling(), 20))
    pieces: list[Piece] = [piece async for piece in generation]
    assert not any(piece.logprobs for piece in pieces)


async def test_choices_on_the_real_coordinator(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(**body(n=2, max_tokens=40))
    expected = "".join(map(chr, answer(PROMPT, 40)))
    assert [choice.message.content for choice in whole.choices] == [expected] * 2
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(PROMPT), 80)


@pytest.mark.parametrize("stream", [True, False])
async def test_all_choices_or_none(
    url: str, coordinator: Coordinator, ranks: FakeRanks, stream: bool
) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        refused = await http.post(CHAT, json=body(n=3, stream=stream))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    await wait_for(lambda: not coordinator.live.journal)
    assert len(coordinator.live.channels) == 0
    assert not any(step.chunks for step in ranks.steps)
