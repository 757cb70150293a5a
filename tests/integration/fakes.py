"""An engine that costs nothing and a tokenizer without a vocabulary, for tests of the shell."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from cluster.coordinator.coordinator import Coordinator
from cluster.core.channel import ChannelTable
from cluster.core.clock import Clock, SystemClock
from cluster.core.config import Limits, Pacing
from cluster.core.errors import TandemError
from cluster.core.ids import Slot
from cluster.core.plan import Likelihood, Step, StepResult
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved
from cluster.core.view import ServedModel
from cluster.text.notation import Notation

END = 1
"""The id that ends an answer."""


def answer(prompt: Sequence[int], length: int) -> list[int]:
    """The ids that FakeRanks gives to a prompt: a function of the prompt and the position."""
    seed = zlib.crc32(repr(tuple(prompt)).encode())
    return [32 + (seed + 7919 * place) % 90 for place in range(length)]


def likelihood(slot: Slot, token: int, count: int) -> Likelihood:
    """What FakeRanks says of an id that was sampled, with as many others as were asked for."""
    top = tuple((token + place, -token / 100 - place) for place in range(count))
    return Likelihood(slot, -token / 100, top)


class FakeTokenizer:
    """One id is one character; ids below 32 have no text."""

    end_ids = frozenset({END})
    special_ids = frozenset({END})
    notation = Notation("<think>", "</think>", "<tool_call>", "</tool_call>")
    vocab_size = 0x110000

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token >= 32)

    def token_bytes(self, token: int) -> bytes:
        return chr(token).encode()

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def render(
        self, messages: Sequence[Any], *, tools: Any = None, thinking: Any = None, spoken: Any = ()
    ) -> tuple[int, ...]:
        return self.encode("".join(str(m["content"]) for m in messages))

    def thinks(self, prompt: Sequence[int]) -> bool:
        return self.decode(prompt[-16:]).endswith("<think>")


class FakeRanks:
    """Answers each step at once: the result can be read before `send` has returned.

    `pause` is awaited at every seam, so that a test can put any interleaving there.
    """

    def __init__(self, pauses: random.Random | None = None) -> None:
        self._prompts: dict[Slot, list[int]] = {}
        self._told: dict[Slot, int] = {}
        self._logprobs: dict[Slot, int | None] = {}
        self._results: asyncio.Queue[StepResult] = asyncio.Queue()
        self._pauses = pauses
        self.results: tuple[StepResult, ...] = ()
        self.steps: list[Step] = []
        self.gate = asyncio.Event()
        """Cleared, results are held back."""
        self.on_shelf: tuple[Shelved, ...] = ()
        self.orders: list[ShelfOrder] = []
        self.news: asyncio.Queue[ShelfNews] = asyncio.Queue()
        """Put in by the test."""
        self.gate.set()

    async def pause(self) -> None:
        if self._pauses is not None:
            for _ in range(self._pauses.choice((0, 0, 1, 2, 5))):
                await asyncio.sleep(0)

    async def send(self, step: Step) -> None:
        self.steps.append(step)
        await self.pause()
        self._results.put_nowait(self._execute(step))
        await self.pause()

    def shelved(self) -> tuple[Shelved, ...]:
        return self.on_shelf

    async def order(self, order: ShelfOrder) -> None:
        await self.pause()
        self.orders.append(order)

    async def next_news(self) -> ShelfNews:
        news = await self.news.get()
        await self.pause()
        return news

    async def next_result(self) -> StepResult:
        result = await self._results.get()
        await self.gate.wait()
        await self.pause()
        self.results = (result,)
        return result

    def _execute(self, step: Step) -> StepResult:
        for fork in step.fork:
            self._prompts[fork.slot] = self._prompts[fork.source][: fork.keep]
        for restore in step.restore:
            (found,) = (each for each in self.on_shelf if each.entry == restore.entry)
            self._prompts[restore.slot] = list(found.ids)
        for admit in step.admit:
            self._prompts[admit.slot] = self._prompts.get(admit.slot, [])[: admit.keep]
            self._told[admit.slot] = 0
            self._logprobs[admit.slot] = admit.logprobs
        decoded: list[int] = []
        for _ in range(step.iterations):
            decoded.extend(self._next(slot) for slot in step.decode)
        slots = list(step.decode) * step.iterations
        prefilled: list[int] = []
        for chunk in step.chunks:
            assert len(self._prompts[chunk.slot]) == chunk.start
            self._prompts[chunk.slot].extend(chunk.tokens)
            if chunk.sample:
                prefilled.append(self._next(chunk.slot))
                slots.append(chunk.slot)
        return StepResult(
            step.epoch,
            step.seq,
            digest=0,
            decoded=tuple(decoded),
            prefilled=tuple(prefilled),
            likelihoods=tuple(
                likelihood(slot, token, count)
                for slot, token in zip(slots, decoded + prefilled, strict=True)
                if (count := self._logprobs[slot]) is not None
            ),
            decode_seconds=0.001 * step.iterations,
            chunk_seconds=tuple(0.0001 * len(chunk.tokens) for chunk in step.chunks),
        )

    def _next(self, slot: Slot) -> int:
        self._told[slot] += 1
        return answer(self._prompts[slot], self._told[slot])[-1]


class ModelRanks(FakeRanks):
    """As a model is: the next id depends on all before it, and on nothing else. So an answer
    that goes on elsewhere is the same. Any call raises `failure` once it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: TandemError | None = None

    async def send(self, step: Step) -> None:
        self._fail()
        await super().send(step)

    async def next_result(self) -> StepResult:
        self._fail()
        result = await super().next_result()
        self._fail()
        return result

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _next(self, slot: Slot) -> int:
        ids = self._prompts[slot]
        if self._told[slot]:
            ids.append(self._latest[slot])
        self._told[slot] += 1
        self._latest[slot] = next_id(ids)
        return self._latest[slot]

    @cached_property
    def _latest(self) -> dict[Slot, int]:
        return {}


def next_id(ids: Sequence[int]) -> int:
    """What ModelRanks says to these."""
    return 32 + zlib.crc32(repr(tuple(ids)).encode()) % 90


def continuation(prompt: Sequence[int], length: int) -> tuple[int, ...]:
    """The ids that ModelRanks gives to a prompt, through any number of epochs."""
    ids = list(prompt)
    for _ in range(length):
        ids.append(next_id(ids))
    return tuple(ids[len(prompt) :])


def make_coordinator(
    *,
    limits: Limits | None = None,
    context: int = 4096,
    channels: ChannelTable | None = None,
    clock: Clock | None = None,
) -> Coordinator:
    """A coordinator over the fakes; call `drive` on FakeRanks to give it an epoch."""
    coordinator = Coordinator(
        ServedModel("fake", context, 0, demo=False),
        FakeTokenizer(),  # type: ignore[arg-type]
        limits=limits or Limits(parked=0),
        pacing=Pacing(),
        clock=clock or SystemClock(),
    )
    if channels is not None:
        coordinator.live.channels = channels
    return coordinator
