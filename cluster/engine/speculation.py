"""What is drafted for the rows of one iteration: decided on every rank alike, by agreed ids and by
what became of earlier drafts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.core.config import DRAFT_ROWS
from cluster.core.ids import Slot
from cluster.engine.draft_model import DraftModel, Wanted
from cluster.engine.launch import Turn

VERIFIED = 2 * DRAFT_ROWS
"""Positions of one iteration with drafts, all rows together: about as many as take little
longer than one, because reading the weights is most of the work."""

Turns = Mapping[Slot, Turn]
"""Of the rows of an iteration, in their order."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """Of one iteration."""

    ids: tuple[tuple[int, ...], ...] = ()
    """As Launch.drafts."""
    modelled: frozenset[Slot] = frozenset()
    """As Launch.modelled."""


def may_draft(turns: Sequence[Turn]) -> bool:
    """True when the next iteration may have drafts, which depend on all ids before it."""
    return any(
        (turn.drafter is not None and turn.drafter.active)
        or (turn.acceptance is not None and turn.acceptance.wanted)
        for turn in turns
        if not turn.ended
    )


def draft(turns: Turns, draft_model: DraftModel | None, vocab: int) -> Drafts:
    """What is drafted for each row, of ids below `vocab`; there may be DRAFT_ROWS of them. Waits
    for the draft model, if it is asked. What is found in the text itself costs nothing, and goes
    before."""
    most = VERIFIED // len(turns) - 1
    drafts = {
        slot: turn.drafter.draft(most) if turn.drafter is not None and not turn.ended else ()
        for slot, turn in turns.items()
    }
    modelled: frozenset[Slot] = frozenset()
    if draft_model is not None:
        others = {slot: turn for slot, turn in turns.items() if not drafts[slot]}
        if asked := wanted(others, most):
            modelled = frozenset(each.slot for each in asked)
            told = draft_model.draft(asked, vocab)
            drafts |= {each.slot: ids for each, ids in zip(asked, told, strict=True)}
    return Drafts(tuple(drafts.values()), modelled) if any(drafts.values()) else Drafts()


def wanted(turns: Turns, most: int) -> list[Wanted]:
    """What the draft model is to draft now, at most `most` ids for each row. A row for which it
    has more to read than the latest ids comes in one at a time, or the others would wait for the
    reading of all."""
    found: list[Wanted] = []
    reads = False
    for slot, turn in turns.items():
        acceptance = turn.acceptance
        if acceptance is None or turn.drafter is None or turn.ended:
            continue
        count = acceptance.count(most)
        if not count or (reads and acceptance.behind):
            continue
        reads = reads or acceptance.behind
        begin, keep = acceptance.window()
        found.append(Wanted(slot, turn.drafter.ids[begin:], keep, count))
    return found
