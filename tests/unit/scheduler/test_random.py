"""Random interleavings of everything that can happen, checked by the harness at each step."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cluster.core.config import Limits
from cluster.core.errors import InvalidRequest, QueueFull
from cluster.core.request import Finish
from cluster.core.shelf import Shelved
from cluster.scheduler import marks, shelf
from cluster.scheduler.prefix import pack
from tests.unit.scheduler.disk import Disk
from tests.unit.scheduler.harness import Harness
from tests.unit.scheduler.reference import VOCABULARY, Cost

COSTS = (
    Cost(),
    Cost(token=0.01, attention=1e-5, iteration=0.004),
    Cost(token=0.005, attention=0.0, iteration=0.015),
    Cost(token=0.02, attention=1e-4, iteration=0.05),
    Cost(token=0.4, attention=0.01, iteration=0.05),
    Cost(token=1e-6, attention=0.3, iteration=1e-3),
    Cost(token=0.005, chunk=0.2, position=0.002),
)
"""From a chip that takes every prompt whole to one that is late with a single token."""
SCOPES = ("", "other")
ENDS = tuple(Finish)


def words(stem: int, length: int) -> list[int]:
    """The first `length` ids of one of a few fixed texts."""
    numbers = random.Random(stem)
    return [numbers.randrange(VOCABULARY) for _ in range(length)]


EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"draft": 1},
    {"draft": 4},
    {"draft": 8, "logprobs": 2},
    {"logprobs": 0},
    {"draft": 3, "min_tokens": 3},
    {"draft": 3, "grammar": "any"},
)
"""What a request may ask for; drafts only on caches that can be trimmed."""


def extras(number: int, *, trimmable: bool) -> dict[str, Any]:
    chosen = dict(EXTRAS[number % len(EXTRAS)])
    return chosen if trimmable else chosen | {"draft": 0}


def is_valid(limits: Limits, prompt: int, max_tokens: int) -> bool:
    return prompt + max_tokens + limits.slot_positions <= limits.kv_tokens


def try_submit(
    harness: Harness,
    prompt: list[int],
    max_tokens: int,
    seed: int,
    ends: int,
    scope: str,
    extra: int = 0,
) -> None:
    """Submit under a new name; being refused for a stated reason is fine."""
    name = f"r{len(harness.tracked)}"
    waiting = len(harness.scheduler._admission)
    try:
        harness.submit(
            name,
            prompt,
            max_tokens,
            seed=seed,
            end_ids=range(ends),
            scope=scope,
            **extras(extra, trimmable=harness.engine.trimmable),
        )
    except QueueFull:
        assert waiting >= harness.limits.queue
    except InvalidRequest:
        assert not is_valid(harness.limits, len(prompt), max_tokens)
    else:
        assert waiting < harness.limits.queue
        assert is_valid(harness.limits, len(prompt), max_tokens)


@pytest.fixture(autouse=True, scope="module")
def small_things_count() -> Iterator[None]:
    """Files and snapshots of prompts as short as these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "LEAST", 8)
        patch.setattr(marks, "APART", 8)
        yield


def shelved(lengths: Iterable[int]) -> list[Shelved]:
    """Prefixes that an earlier epoch has left on disk."""
    every = [(scope, tuple(words(0, length))) for length in lengths for scope in SCOPES]
    names = [shelf.entry_name(scope, pack(ids)) for scope, ids in every]
    return [
        Shelved(name, scope, ids, len(ids), float(number))
        for number, (name, (scope, ids)) in enumerate(zip(names, every, strict=True))
    ]


class Traffic(RuleBasedStateMachine):
    """Clients, ranks and time do as they please."""

    @initialize(
        sequences=st.integers(1, 4),
        queue=st.integers(1, 4),
        parked=st.integers(0, 3),
        kv_tokens=st.integers(60, 320),
        trimmable=st.booleans(),
        cost=st.sampled_from(COSTS),
        lag=st.integers(1, 9),
        kv_ahead=st.sampled_from([0, 5, 1024]),
        slot_positions=st.sampled_from([0, 0, 9]),
        disk_bytes=st.sampled_from([0, 150, 10_000]),
        space=st.sampled_from([100, 250, 10_000]),
        lengths=st.sets(st.integers(1, 90), max_size=3),
    )
    def start(
        self,
        sequences: int,
        queue: int,
        parked: int,
        kv_tokens: int,
        trimmable: bool,
        cost: Cost,
        lag: int,
        kv_ahead: int,
        slot_positions: int,
        disk_bytes: int,
        space: int,
        lengths: set[int],
    ) -> None:
        limits = Limits(
            sequences=sequences,
            queue=queue,
            parked=parked,
            kv_tokens=kv_tokens,
            kv_ahead=kv_ahead,
            slot_positions=slot_positions,
        )
        self.harness = Harness(
            limits=limits,
            trimmable=trimmable,
            cost=cost,
            lag=lag,
            end_ids=[VOCABULARY - 1],
            disk=Disk(shelved(lengths) if disk_bytes else (), space),
            disk_bytes=disk_bytes,
        )

    @rule(
        stem=st.integers(0, 1),
        shared=st.integers(0, 90),
        tail=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20),
        max_tokens=st.integers(1, 30),
        seed=st.integers(0, 3),
        ends=st.sampled_from([0, 0, 4]),
        scope=st.sampled_from(SCOPES),
        extra=st.integers(0, len(EXTRAS) - 1),
    )
    def submit(
        self,
        stem: int,
        shared: int,
        tail: list[int],
        max_tokens: int,
        seed: int,
        ends: int,
        scope: str,
        extra: int,
    ) -> None:
        prompt = words(stem, shared) + tail
        try_submit(self.harness, prompt, max_tokens, seed, ends, scope, extra)

    @precondition(lambda self: self.harness.tracked)
    @rule(data=st.data(), more=st.integers(1, 8), seed=st.integers(0, 3))
    def follow_up(self, data: st.DataObject, more: int, seed: int) -> None:
        """The next turn of a conversation, or a retry with another tail."""
        earlier = self.harness.tracked[data.draw(st.sampled_from(sorted(self.harness.tracked)))]
        prompt = [*earlier.request.prompt, *earlier.ids, *words(seed, more)]
        try_submit(self.harness, prompt, 4, seed, 0, earlier.request.scope)

    @precondition(lambda self: self.harness.tracked)
    @rule(data=st.data(), finish=st.sampled_from([Finish.CANCELLED, Finish.STOP]))
    def end(self, data: st.DataObject, finish: Finish) -> None:
        self.harness.end(data.draw(st.sampled_from(sorted(self.harness.tracked))), finish)

    @rule()
    def plan(self) -> None:
        self.harness.plan()

    @rule(place=st.integers(0, 3), ok=st.sampled_from([True, True, True, False]))
    def hear(self, place: int, ok: bool) -> None:
        self.harness.hear(place, ok=ok)

    @rule()
    def answer(self) -> None:
        self.harness.answer()

    @rule(steps=st.integers(1, 6))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            while self.harness.plan():
                pass
            self.harness.answer() or self.harness.hear()

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.harness.clock.advance(seconds)

    def teardown(self) -> None:
        if hasattr(self, "harness"):
            self.harness.settle()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


@pytest.mark.parametrize("trimmable", [True, False])
@pytest.mark.parametrize("batch", range(6))
def test_long_random_runs_keep_every_invariant(batch: int, trimmable: bool) -> None:
    """Longer than hypothesis makes them, and busier."""
    for number in range(40):
        numbers = random.Random(f"{batch} {number}")
        drive(numbers, trimmable=trimmable)


@pytest.mark.parametrize("seed", ["soak 560", "soak 643"])
def test_runs_that_failed_once(seed: str) -> None:
    """A copy was planned into room that a trim of the same step frees only afterwards."""
    drive(random.Random(seed), trimmable=True)


def drive(numbers: random.Random, *, trimmable: bool) -> None:
    limits = Limits(
        sequences=numbers.randint(1, 4),
        queue=numbers.randint(1, 6),
        parked=numbers.randint(0, 3),
        kv_tokens=numbers.randint(60, 500),
        kv_ahead=numbers.choice([0, 3, 20, 1024]),
        slot_positions=numbers.choice([0, 0, 5]),
    )
    disk_bytes = numbers.choice([0, 200, 10_000])
    lengths = [numbers.randint(1, 90) for _ in range(numbers.randint(0, 3))]
    harness = Harness(
        limits=limits,
        trimmable=trimmable,
        cost=numbers.choices(COSTS[:6], [3, 3, 3, 3, 1, 1])[0],
        lag=numbers.choice([1, 2, 2, 2, 5]),
        end_ids=[VOCABULARY - 1, VOCABULARY - 2],
        disk=Disk(shelved(set(lengths)) if disk_bytes else (), numbers.choice([150, 400, 10_000])),
        disk_bytes=disk_bytes,
    )
    eager = numbers.choice([0.4, 0.6, 0.8])
    """How often the step loop gets its turn."""
    for _ in range(160):
        act(harness, numbers, eager)
    harness.settle()


def act(harness: Harness, numbers: random.Random, eager: float) -> None:
    dice = numbers.random()
    if dice < eager / 2:
        harness.plan()
    elif dice < eager:
        harness.answer()
        if numbers.random() < 0.3:
            harness.hear(numbers.randint(0, 2), ok=numbers.random() < 0.8)
    elif dice < eager + (1 - eager) * 0.15 and harness.tracked:
        finish = numbers.choice([Finish.CANCELLED, Finish.STOP])
        harness.end(numbers.choice(list(harness.tracked)), finish)
    elif dice < eager + (1 - eager) * 0.5 and harness.tracked:
        earlier = harness.tracked[numbers.choice(list(harness.tracked))]
        cut = numbers.randint(0, len(earlier.request.prompt))
        prompt = [*earlier.request.prompt, *earlier.ids][: numbers.choice([cut, 10_000])]
        prompt += words(numbers.randint(10, 19), numbers.randint(1, 9))
        try_submit(
            harness,
            prompt,
            numbers.randint(1, 9),
            numbers.randint(0, 3),
            0,
            earlier.request.scope,
            numbers.randint(0, 6),
        )
    elif dice < eager + (1 - eager) * 0.9:
        prompt = words(numbers.randint(0, 1), numbers.randint(0, 90))
        prompt += words(numbers.randint(2, 9), numbers.randint(1, 20))
        try_submit(
            harness,
            prompt,
            numbers.randint(1, 30),
            numbers.randint(0, 3),
            numbers.choice([0, 4]),
            numbers.choice(SCOPES),
            numbers.randint(0, 6),
        )
    else:
        harness.clock.advance(numbers.choice([1, 1, 1, 40]) * numbers.random())
