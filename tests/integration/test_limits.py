"""A request that can't fit is refused at admission, with both numbers."""

from __future__ import annotations

import asyncio

import pytest

from cluster.coordinator.drive import drive
from cluster.core.config import Limits
from cluster.core.errors import PromptTooLong
from cluster.core.ids import Epoch
from cluster.core.request import Finish, Order
from cluster.core.sampling import Sampling
from tests.conftest import wait_for
from tests.integration.fakes import FakeRanks, make_coordinator

GREEDY = Sampling(temperature=0)
MIB = 1 << 20


@pytest.mark.parametrize(
    ("limits", "context", "words"),
    [
        (Limits(kv_tokens=1000), 500, r"600 tokens, and this model's context is 500"),
        (Limits(kv_tokens=512, position_bytes=MIB), 4096,
         r"600 tokens, which take 0\.586 GiB.* room for 512 \(0\.5 GiB\).*--kv-bits 8.*--kv-gb"),
        (Limits(kv_tokens=512, slot_positions=256, position_bytes=MIB), 4096,
         r"600 tokens.* room for 256 \(0\.25 GiB\)"),
    ],
)  # fmt: skip
async def test_a_prompt_that_does_not_fit(limits: Limits, context: int, words: str) -> None:
    coordinator = make_coordinator(limits=limits, context=context)
    driving = asyncio.create_task(drive(coordinator, Epoch(1), FakeRanks(), trimmable=True))
    await wait_for(lambda: coordinator.scheduler)
    with pytest.raises(PromptTooLong, match=words):
        coordinator.submit(Order((40,) * 600, GREEDY))
    assert not coordinator.live.journal
    # The longest that fits is served to its last position.
    room = min(context, limits.kv_tokens - limits.slot_positions)
    generation = coordinator.submit(Order((40,) * (room - 10), GREEDY, 50, ignore_eos=True))
    await wait_for(lambda: generation.finish)
    assert generation.finish is Finish.LENGTH
    assert generation.usage.completion_tokens == 10
    driving.cancel()
    await asyncio.wait([driving])
