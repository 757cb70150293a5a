"""Whole runs as text: what is planned, answered and told, line by line.

`TANDEM_REWRITE_TRANSCRIPTS=1 pytest tests/unit/scheduler/test_transcripts.py` writes them anew;
read the difference before committing it. The first column is simulated time in seconds.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.core.config import Limits
from cluster.core.errors import QueueFull
from cluster.core.ids import RequestId
from cluster.core.request import Request
from tests.unit.scheduler.harness import Harness
from tests.unit.scheduler.reference import Cost, alone

FOLDER = Path(__file__).parent / "transcripts"
SLOW = Cost(token=2e-3, attention=1e-7, iteration=8e-3, row=1e-3)
"""125 tokens of prefill fill a chunk's time; two decode iterations fill a step's."""

Scenario = Callable[[], Harness]


def ids(start: int, length: int) -> range:
    return range(start, start + length)


def fill(harness: Harness) -> None:
    """Send as many steps as may be in flight."""
    while harness.plan():
        pass


def one_request() -> Harness:
    """One request alone: prefill in two chunks, then decode to max_tokens."""
    harness = Harness(cost=SLOW)
    harness.submit("a", ids(0, 100), 8)
    return harness


def two_joined() -> Harness:
    """A second request joins while the first decodes; they go on as one batch."""
    harness = Harness(cost=SLOW)
    first = harness.submit("a", ids(0, 20), 12)
    harness.run(until=lambda: first.tokens > 2)
    harness.submit("b", ids(500, 150), 6)
    return harness


def cancel_in_prefill_then_retry() -> Harness:
    """A client leaves in the middle of its prefill and comes back with another tail."""
    harness = Harness(cost=SLOW)
    harness.submit("a", ids(0, 600), 4)
    harness.run(until=lambda: harness.clock.now() > 0.6)
    fill(harness)
    harness.end("a")
    harness.submit("b", [*ids(0, 590), 7, 7, 7], 4)
    return harness


def stop_with_overrun() -> Harness:
    """End ids come in the middle of a step while another is in flight. What is sampled past
    them is drained; once nobody in the batch wants more, iterations are left out."""
    harness = Harness(cost=Cost(token=2e-3, iteration=3e-3, row=5e-4))
    for name, start, last in (("a", 0, 23), ("b", 900, 12)):
        whole = alone(Request(RequestId(name), tuple(ids(start, 20)), 40))
        harness.submit(name, ids(start, 20), 40, end_ids=[whole[last]])
    return harness


def queue_full() -> Harness:
    """One slot, a queue of one: the third is refused; the second is cancelled as it waits."""
    harness = Harness(cost=SLOW, limits=Limits(sequences=1, queue=1))
    harness.submit("a", ids(0, 10), 3)
    fill(harness)
    harness.submit("b", ids(100, 10), 3)
    with suppress(QueueFull):
        harness.submit("c", ids(200, 10), 3)
    harness.end("b")
    harness.submit("d", ids(300, 10), 2)
    return harness


def eviction_and_reuse() -> Harness:
    """Room for two prefixes: copied, continued, trimmed for want of room, and evicted."""
    harness = Harness(cost=SLOW, limits=Limits(parked=2, kv_tokens=120))
    for name, prompt, most in (
        ("a", ids(0, 30), 2),
        ("copy", [*ids(0, 20), 9, 9], 2),
        ("continue", [*ids(0, 30), 8, 8, 8], 2),
        ("evict", ids(500, 40), 2),
        ("trim", [*ids(500, 20), *ids(800, 65)], 2),
    ):
        harness.submit(name, prompt, most)
        harness.run()
    return harness


END = 999


def snapshots() -> Harness:
    """A cache that can't be trimmed: copied where messages end, and where the prompt does; the
    next turn goes on from there."""
    harness = Harness(cost=SLOW, trimmable=False, end_ids=[END])
    conversation = [*ids(0, 99), END, *ids(200, 120), END, 7, 8]
    first = harness.submit("a", conversation, 6)
    harness.run(until=lambda: first.released)
    harness.submit("b", [*conversation, *first.ids, END, *ids(400, 70)], 3)
    harness.run()
    harness.submit("c", [*ids(0, 99), END, *ids(500, 100)], 3)
    return harness


def saved_and_restored() -> Harness:
    """What is parked is saved; when memory has lost it, it is read back, while others go on."""
    harness = Harness(cost=SLOW, limits=Limits(parked=1), disk_bytes=1000)
    harness.submit("a", ids(0, 200), 3)
    harness.run()
    harness.submit("other", ids(500, 40), 3)
    harness.run()
    harness.submit("b", [*ids(0, 190), 7, 7], 3)
    fill(harness)
    harness.submit("passes", ids(700, 30), 2)
    return harness


SCENARIOS: list[Scenario] = [
    one_request,
    two_joined,
    cancel_in_prefill_then_retry,
    stop_with_overrun,
    queue_full,
    eviction_and_reuse,
    snapshots,
    saved_and_restored,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_run_is_as_written(scenario: Scenario) -> None:
    harness = scenario()
    harness.settle()
    heading = [f"# {line}" for line in inspect.cleandoc(scenario.__doc__ or "").splitlines()]
    text = "\n".join([*heading, "", *harness.log, ""])
    path = FOLDER / f"{scenario.__name__}.txt"
    if os.environ.get("TANDEM_REWRITE_TRANSCRIPTS"):
        path.write_text(text, encoding="utf-8")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()


def test_no_transcript_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {s.__name__ for s in SCENARIOS}
