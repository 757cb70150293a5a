"""A request on its way through the plan."""

from __future__ import annotations

from cluster.core.ids import Slot
from cluster.core.request import Finish, Phase, Progress, Request


class Sequence:
    """One request with its slot and two sets of counts: what is planned, and what is known.

    Planned counts run ahead of known ones by the steps in flight.
    """

    def __init__(self, request: Request, submitted: float) -> None:
        self.request = request
        self.submitted = submitted
        self.slot: Slot | None = None
        self.cached = 0
        """Prompt positions that came from a parked prefix."""
        self.planned_prefill = 0
        """Prompt positions filled once all sent steps are done."""
        self.prefilled = 0
        """Prompt positions filled now."""
        self.planned_tokens = 0
        """Tokens sampled once all sent steps are done."""
        self.tokens: list[int] = []
        """Ids sampled so far, an end id included."""
        self.feed = request.prompt
        """Ids to prefill: the prompt, and after an interruption what was generated before it."""
        self.reserved = 0
        """Cache positions set aside for it while it has a slot."""
        self.finish: Finish | None = None

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def most(self) -> int:
        """Cache positions it may come to need."""
        return self.prompt_tokens + self.request.max_tokens

    @property
    def fed(self) -> int:
        """How many of its generated ids are part of the feed."""
        return len(self.feed) - self.prompt_tokens

    @property
    def wants_prefill(self) -> bool:
        return self.finish is None and self.planned_prefill < len(self.feed)

    @property
    def wants_decode(self) -> bool:
        """The token after its feed is sampled or planned, and the plan holds fewer tokens than
        it may have."""
        return self.finish is None and self.fed < self.planned_tokens < self.request.max_tokens

    @property
    def planned_length(self) -> int:
        """Positions its slot holds once all sent steps are done, at most: iterations may be
        left out once it has sampled an end id. The latest sampled token is in no cache yet: it
        is fed by the next iteration."""
        return self.planned_prefill + max(0, self.planned_tokens - self.fed - 1)

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Ids whose positions in the slot are known, in order: what can be parked. The latest
        known token is left out, since nothing may ever have fed it."""
        return self.feed[: self.planned_prefill] + tuple(self.tokens[self.fed : -1])

    def interrupt(self) -> None:
        """It has lost its slot and will begin anew: what was generated is prefilled again, and
        the next token is sampled at the same position as if nothing had happened. No step that
        computes for it may be in flight."""
        self.feed = self.request.prompt + tuple(self.tokens)
        self.slot = None
        self.planned_prefill = self.prefilled = self.reserved = 0
        self.planned_tokens = len(self.tokens)

    @property
    def progress(self) -> Progress:
        if self.finish is not None:
            phase = Phase.DRAINING
        elif self.slot is None:
            phase = Phase.QUEUED
        elif self.prefilled == len(self.feed):
            phase = Phase.DECODE
        else:
            phase = Phase.PREFILL
        return Progress(phase, len(self.feed), self.prefilled, len(self.tokens))
