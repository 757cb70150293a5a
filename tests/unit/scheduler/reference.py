"""A tiny engine without a model: applies steps strictly, and shows in its text what a cache held.

The token after n cached positions is a function of (seed, n, every id in the cache), so a slot
that holds anything but its own prompt and answer changes the text.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.core.config import Limits
from cluster.core.ids import Epoch, Slot
from cluster.core.plan import (
    Admit,
    Chunk,
    Fork,
    Likelihood,
    Park,
    Restore,
    Save,
    Step,
    StepResult,
)
from cluster.core.request import Request
from tests.unit.scheduler.disk import Disk, PlanBroken, require

__all__ = ["PlanBroken", "require"]

VOCABULARY = 48
MODULUS = (1 << 61) - 1
MULTIPLIER = 1_000_003


def choose(seed: int, length: int, digest: int, barred: frozenset[int] = frozenset()) -> int:
    """The token that follows `length` positions whose ids have this digest."""
    token = zlib.crc32(f"{seed}:{length}:{digest}".encode()) % VOCABULARY
    while token in barred:
        token = (token + 1) % VOCABULARY
    return token


def extend(digest: int, token: int) -> int:
    """Digest of the ids so far and one more."""
    return (digest * MULTIPLIER + token + 1) % MODULUS


def alone(request: Request) -> tuple[int, ...]:
    """The whole answer, end id included, of a request that has the engine to itself."""
    digest = 0
    for token in request.prompt:
        digest = extend(digest, token)
    answer: list[int] = []
    while len(answer) < request.max_tokens:
        barred = request.end_ids if len(answer) < request.min_tokens else frozenset[int]()
        token = choose(request.sampling.seed, len(request.prompt) + len(answer), digest, barred)
        answer.append(token)
        if token in request.end_ids:
            break
        digest = extend(digest, token)
    return tuple(answer)


@dataclass(frozen=True)
class Cost:
    """Simulated time, in seconds."""

    token: float = 2e-4
    """Per prefilled token."""
    attention: float = 1e-8
    """Per prefilled token and position of context."""
    iteration: float = 4e-3
    """Per decode iteration."""
    row: float = 5e-4
    """Per decode iteration and row."""

    chunk: float = 0.0
    """Per chunk, whatever its size: the weights are read."""
    position: float = 0.0
    """Per chunk and position of context before it: the cache is read."""

    def fixed(self, start: int) -> float:
        """Of any chunk at `start`, before its own work."""
        return self.chunk + self.position * start

    def prefill(self, start: int, tokens: int) -> float:
        own = self.token * tokens + self.attention * tokens * (start + tokens / 2)
        return self.fixed(start) + own

    def decode(self, rows: int) -> float:
        """Of one iteration."""
        return self.iteration + self.row * rows if rows else 0.0


@dataclass
class Cache:
    """What one slot holds."""

    ids: list[int] = field(default_factory=list)
    digests: list[int] = field(default_factory=lambda: [0])
    """Of the first 0, 1, 2, ... ids."""
    live: bool = False
    seed: int = 0
    end_ids: frozenset[int] = frozenset()
    end_from: int = 0
    draft: int = 0
    logprobs: int | None = None
    decoded: bool = False
    """It is past its prompt."""
    latest: int | None = None
    """Sampled, and not in the cache yet."""
    ended: int | None = None
    """The launch in which it sampled an end id."""

    def feed(self, token: int) -> None:
        self.ids.append(token)
        self.digests.append(extend(self.digests[-1], token))

    def sample(self, launch: int) -> int:
        barred = self.end_ids if len(self.ids) < self.end_from else frozenset[int]()
        self.latest = choose(self.seed, len(self.ids), self.digests[-1], barred)
        if self.ended is None and self.latest in self.end_ids:
            self.ended = launch
        return self.latest

    def accepted(self) -> int:
        """How many ids an iteration gives it: any number that drafts allow."""
        if not self.draft:
            return 1
        least = 0 if self.ended is not None else 1
        return least + self.digests[-1] % (2 + self.draft - least)

    def trim(self, keep: int) -> None:
        del self.ids[keep:]
        del self.digests[keep + 1 :]

    def copy(self, keep: int) -> Cache:
        return Cache(self.ids[:keep], self.digests[: keep + 1])


@dataclass(frozen=True)
class Answer:
    """A step's result, and when it is there."""

    result: StepResult
    at: float


class ReferenceEngine:
    """Applies steps in order and refuses everything that plan.py does not allow."""

    def __init__(
        self,
        epoch: Epoch,
        *,
        trimmable: bool = True,
        cost: Cost | None = None,
        limits: Limits | None = None,
        lag: int = 2,
        disk: Disk | None = None,
    ) -> None:
        """An iteration is left out once all rows had ended `lag` launches ago (plan.py)."""
        self.epoch = epoch
        self.trimmable = trimmable
        self.cost = cost or Cost()
        self.limits = limits or Limits()
        self.slots: dict[Slot, Cache] = {}
        self.disk = disk or Disk()
        self.unanswered: deque[Answer] = deque()
        self.last_seq = 0
        self.lag = lag
        self.launches = 0
        """Decode iterations and chunks, ever."""
        self.decoded_tokens = 0
        """Tokens that decode iterations have sampled, ever."""
        self.prefilled_tokens = 0
        """Tokens that chunks have fed, ever."""
        self._free_at = 0.0

    @property
    def live(self) -> dict[Slot, Cache]:
        return {slot: cache for slot, cache in self.slots.items() if cache.live}

    @property
    def parked(self) -> dict[Slot, Cache]:
        return {slot: cache for slot, cache in self.slots.items() if not cache.live}

    @property
    def positions(self) -> int:
        """Cache positions in use, live and parked."""
        return sum(len(cache.ids) for cache in self.slots.values())

    @property
    def used(self) -> int:
        """The same with what slots take beside their positions."""
        return self.positions + len(self.slots) * self.limits.slot_positions

    def take(self, step: Step, now: float = 0.0) -> StepResult:
        """Apply a step that arrives at `now`. Its answer waits in `unanswered`."""
        require(step.epoch == self.epoch, f"epoch {step.epoch}, not {self.epoch}")
        require(step.seq == self.last_seq + 1, f"step {step.seq} after {self.last_seq}")
        self.last_seq = step.seq
        edits = (*step.release, *step.park, *step.save, *step.fork, *step.restore, *step.admit)
        require(bool(edits or step.decode or step.chunks), f"step {step.seq} is empty")
        self._edit(step)
        decoded = self._decode(step.decode, step.iterations)
        self._within_limits()
        prefilled = [(c.slot, token) for c in step.chunks for token in self._prefill(c)]
        self._within_limits()
        require(
            len({chunk.slot for chunk in step.chunks}) == len(step.chunks),
            "two chunks of one slot in one step",
        )
        rows = len(step.decode)
        counts = tuple(len(ids) for _, ids in decoded)
        done = len(decoded) // rows if rows else 0
        sampled = [(slot, token) for slot, ids in decoded for token in ids] + prefilled
        layout = sorted((slot, len(cache.ids)) for slot, cache in self.slots.items())
        result = StepResult(
            epoch=step.epoch,
            seq=step.seq,
            digest=zlib.crc32(repr((layout, sampled)).encode()),
            decoded=tuple(token for _, ids in decoded for token in ids),
            counts=() if all(count == 1 for count in counts) else counts,
            prefilled=tuple(token for _, token in prefilled),
            likelihoods=tuple(
                Likelihood(slot, -float(token))
                for slot, token in sampled
                if self.slots[slot].logprobs is not None
            ),
            decode_seconds=done * self.cost.decode(rows),
            chunk_seconds=tuple(self.cost.prefill(c.start, len(c.tokens)) for c in step.chunks),
        )
        busy = result.decode_seconds + sum(result.chunk_seconds)
        self._free_at = max(self._free_at, now) + busy
        self.unanswered.append(Answer(result, self._free_at))
        return result

    def answer(self) -> StepResult:
        """The oldest result that was not handed out yet."""
        return self.unanswered.popleft().result

    def _edit(self, step: Step) -> None:
        for slot in step.release:
            require(slot in self.slots, f"release of slot {slot}, which does not exist")
            del self.slots[slot]
        for park in step.park:
            self._park(park)
        self._within_limits()
        for save in step.save:
            self._save(save)
        for fork in step.fork:
            self._fork(fork)
        self._within_positions()
        for restore in step.restore:
            self._restore(restore)
        self._within_positions()
        for admit in step.admit:
            self._admit(admit)
        for fork in step.fork:
            used = self.slots[fork.slot].live or self.slots[fork.source].live
            require(used, f"slot {fork.slot} was forked for nobody")
        for restore in step.restore:
            require(self.slots[restore.slot].live, f"slot {restore.slot} was restored for nobody")
        self._within_limits()

    def _save(self, save: Save) -> None:
        cache = self.slots.get(save.slot)
        require(cache is not None, f"save of slot {save.slot}, which does not exist")
        assert cache is not None
        require(not cache.live, f"save of slot {save.slot}, which is live")
        require(list(save.ids) == cache.ids, f"save of slot {save.slot} under other ids")
        self.disk.save(save)

    def _restore(self, restore: Restore) -> None:
        require(restore.slot not in self.slots, f"restore to slot {restore.slot}, which is taken")
        cache = Cache()
        for token in self.disk.take(restore.entry):
            cache.feed(token)
        self.slots[restore.slot] = cache

    def _park(self, park: Park) -> None:
        cache = self._live(park.slot, "park")
        self._keep(cache, park.keep, f"park of slot {park.slot}")
        require(park.keep > 0, f"slot {park.slot} parked with nothing in it")
        cache.live = False
        cache.latest = None

    def _fork(self, fork: Fork) -> None:
        source = self.slots.get(fork.source)
        require(source is not None, f"fork of slot {fork.source}, which does not exist")
        assert source is not None
        whole = fork.keep == len(source.ids) and not source.decoded
        require(not source.live or whole, f"fork of slot {fork.source}, which is live")
        require(fork.slot not in self.slots, f"fork into slot {fork.slot}, which is taken")
        require(0 < fork.keep <= len(source.ids), f"fork keeps {fork.keep} of {len(source.ids)}")
        require(
            self.trimmable or fork.keep == len(source.ids), "part of an untrimmable cache forked"
        )
        self.slots[fork.slot] = source.copy(fork.keep)

    def _admit(self, admit: Admit) -> None:
        cache = self.slots.setdefault(admit.slot, Cache())
        require(not cache.live, f"admission to slot {admit.slot}, which is live")
        self._keep(cache, admit.keep, f"admission to slot {admit.slot}")
        cache.live = True
        cache.seed = admit.sampling.seed
        cache.end_ids = frozenset(admit.end_ids)
        cache.end_from = admit.end_from
        cache.draft = admit.draft
        cache.logprobs = admit.logprobs
        cache.latest = cache.ended = None
        cache.decoded = False

    def _keep(self, cache: Cache, keep: int, what: str) -> None:
        length = len(cache.ids)
        require(0 <= keep <= length, f"{what} keeps {keep} of {length}")
        require(self.trimmable or keep == length, f"{what} trims an untrimmable cache")
        cache.trim(keep)

    def _decode(self, rows: Sequence[Slot], iterations: int) -> list[tuple[Slot, list[int]]]:
        """What each row got, iteration by iteration."""
        require((iterations == 0) == (not rows), f"{iterations} iterations of {len(rows)} rows")
        require(iterations >= 0, f"{iterations} iterations")
        require(len(set(rows)) == len(rows), f"a slot twice in the batch: {rows}")
        sampled: list[tuple[Slot, list[int]]] = []
        caches = [self._live(slot, "decode") for slot in rows]
        for _ in range(iterations):
            if all(
                cache.ended is not None and cache.ended <= self.launches - self.lag
                for cache in caches
            ):
                break
            self._within_positions(sum(1 + cache.draft for cache in caches))
            sampled += [(slot, self._iterate(slot)) for slot in rows]
            self.launches += 1
        self.decoded_tokens += sum(len(ids) for _, ids in sampled)
        return sampled

    def _iterate(self, slot: Slot) -> list[int]:
        cache = self.slots[slot]
        require(cache.latest is not None, f"decode of slot {slot} before its first token")
        cache.decoded = True
        ids: list[int] = []
        for _ in range(cache.accepted()):
            assert cache.latest is not None
            cache.feed(cache.latest)
            ids.append(cache.sample(self.launches))
        return ids

    def _prefill(self, chunk: Chunk) -> list[int]:
        cache = self._live(chunk.slot, "prefill")
        require(cache.latest is None, f"prefill of slot {chunk.slot} after its first token")
        require(bool(chunk.tokens), f"empty chunk for slot {chunk.slot}")
        require(
            chunk.start == len(cache.ids),
            f"chunk of slot {chunk.slot} starts at {chunk.start}, not at {len(cache.ids)}",
        )
        for token in chunk.tokens:
            cache.feed(token)
        self.prefilled_tokens += len(chunk.tokens)
        self.launches += 1
        return [cache.sample(self.launches - 1)] if chunk.sample else []

    def _live(self, slot: Slot, what: str) -> Cache:
        cache = self.slots.get(slot)
        require(cache is not None, f"{what} of slot {slot}, which does not exist")
        assert cache is not None
        require(cache.live, f"{what} of slot {slot}, which has no sequence")
        return cache

    def _within_positions(self, more: int = 0) -> None:
        most, used = self.limits.kv_tokens, self.used + more
        require(used <= most, f"{used} cache positions, over {most}")

    def _within_limits(self) -> None:
        self._within_positions()
        for what, count, most in (
            ("live", len(self.live), self.limits.sequences),
            ("parked", len(self.parked), self.limits.parked),
        ):
            require(count <= most, f"{count} {what} slots, over {most}")
