"""A launch: one graph handed to MLX, and what its ids mean once they are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from cluster.core.ids import Slot
from cluster.engine.acceptance import Acceptance
from cluster.engine.draft import Drafter
from cluster.engine.sampler import Report


@dataclass(slots=True)
class Turn:
    """One sequence's stay in a slot, for as long as it may be decoded."""

    end_ids: frozenset[int]
    constrained: bool = False
    """A grammar has to know its latest id before the next one is sampled."""
    drafter: Drafter | None = None
    acceptance: Acceptance | None = None
    """Of the draft model's ids, where there is one; never without a drafter."""
    ended: bool = False
    """It is known to have sampled an end id."""


@dataclass(slots=True)
class Launch:
    """Work under way on the device: a decode iteration of the whole batch, a prefill chunk, or
    several chunks that are whole prompts."""

    rows: tuple[Slot, ...]
    turns: tuple[Turn, ...]
    """Of each row."""
    lengths: tuple[int, ...]
    """Cache length of each row after the launch; with drafts, were all of them right."""
    chunk: bool
    """Prefill; otherwise a decode iteration."""
    done: mx.array
    """The sampled ids, int32: one for each row and one more for each drafted id, or none for a
    chunk that samples nothing. Used by nobody else, so that another thread may wait for it."""
    drafts: tuple[tuple[int, ...], ...] = ()
    """Of each row; empty when nobody drafted."""
    modelled: frozenset[Slot] = frozenset()
    """Rows whose drafts are the draft model's."""
    report: Report | None = None
    """On rank 0, when a row asked for logprobs."""

    def accept(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        """What each row gets of the sampled `ids`: up to the first that is not what was
        drafted, that one included, and nothing behind an end id."""
        if not self.drafts:
            return [(token,) for token in ids]
        accepted = []
        start = 0
        for draft, turn in zip(self.drafts, self.turns, strict=True):
            targets = ids[start : start + len(draft) + 1]
            start += len(targets)
            count = 1
            while (
                count <= len(draft)
                and targets[count - 1] == draft[count - 1]
                and targets[count - 1] not in turn.end_ids
            ):
                count += 1
            accepted.append(tuple(targets[:count]))
        return accepted
