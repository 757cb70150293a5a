"""Replies for tests of dialects: what a request that was taken looks like to its writer."""

from __future__ import annotations

from typing import Any

from api.ask import Ask
from api.choices import Choices
from api.dialect import Reply
from cluster.core.request import Order, StepTiming, Timing
from cluster.core.sampling import Sampling
from tests.unit.api.fake import FakeGeneration, Script


async def finished(
    script: Script,
    ask: Ask,
    *,
    timing: Timing,
    cached: int = 0,
    steps: tuple[StepTiming, ...] = (),
) -> Reply:
    """A request of five prompt tokens that has run its script to the end."""
    generation: Any = FakeGeneration(Order((1, 2, 3, 4, 5), Sampling()), script, "test", cached)
    async for _ in generation:
        pass
    generation.timing, generation.steps = timing, steps
    return Reply(
        id=generation.id,
        request_id="req_1",
        model="org/fake-model",
        created=1700000000.25,
        ask=ask,
        choices=Choices([generation]),
    )
