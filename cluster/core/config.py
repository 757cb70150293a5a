"""Settings, read once and frozen."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_CHUNK = 2048
"""Bounds the activations of one prefill chunk."""
DRAFT_ROWS = 8
"""Nothing is drafted where more sequences than this decode together."""
DRAFT_WINDOW = 512
"""A draft model begins with so many of a sequence's latest ids, and begins anew once it has read
twice as many: its cache stays small, and a prompt of any length costs it one chunk."""


@dataclass(frozen=True, slots=True)
class Pacing:
    """Time bounds of the plan, in seconds (DESIGN.md, invariants 3 and 5)."""

    chunk: float = 0.25
    """One prefill chunk is predicted to take at most this long; more only where a chunk of any
    size takes at least half as long (scheduler/pace.py)."""
    prefill_in_flight: float = 0.5
    """All prefill in flight is predicted to take at most this long together, or is one chunk."""
    decode_in_flight: float = 0.04
    """All decode in flight is predicted to take at most this long together, or a step has a
    single iteration."""
    prefill_share: float = 0.5
    """Share of the time that prefill gets while others decode; in (0, 1)."""
    steps_in_flight: int = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of everything that could grow."""

    sequences: int = 16
    """Sequences with a slot at the same time."""
    queue: int = 128
    """Requests that wait for a slot; one more is refused with 429."""
    parked: int = 64
    """Prefixes kept after their sequence has ended; they may take all of `kv_tokens` that live
    sequences leave."""
    kv_tokens: int = 1 << 20
    """KV positions of all slots together, live and parked, per rank."""
    slot_positions: int = 0
    """What a slot takes beside its positions (windows, states), in positions."""
    position_bytes: int = 0
    """Cache bytes of one position on the rank that keeps most; for people to read."""
    attended: int = 0
    """Tokens of a chunk times the positions that the last of them sees, at most, where memory is
    taken for each; 0 for no bound."""
    kv_ahead: int = 1024
    """Positions set aside beyond what a sequence holds. Were all that it may ever need set aside
    at once, a client that asks for 32,000 tokens and takes 200 would keep others waiting."""
    draft: int = 12
    """Ids drafted for a sequence in one iteration, at most; 0 turns drafts off. What repeats
    itself does so for longer than this; what does not has its drafts refused at the first."""
    body_bytes: int = 32 << 20
    """Size of an HTTP request body."""
    queue_seconds: float = 600.0
    """Longest wait for a slot."""
    recovery_seconds: float = 120.0
    """Longest time that requests wait for engines, when those of their epoch are gone."""
    request_seconds: float = 7200.0
    """Longest life of a request."""

    @property
    def requests(self) -> int:
        """Requests that one group takes together: those with a slot, and those that wait."""
        return self.sequences + self.queue

    def chunk_at(self, start: int) -> int:
        """Most tokens of a chunk that begins at position `start`; at least 1. See `attended`."""
        if not self.attended:
            return LARGEST_CHUNK
        return max(1, int(((start * start + 4 * self.attended) ** 0.5 - start) / 2))
