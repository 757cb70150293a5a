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
        self.finish: Finish | None = None

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def reserved(self) -> int:
        """Cache positions it may come to need, so that admitting it can't exhaust memory."""
        return self.prompt_tokens + self.request.max_tokens

    @property
    def wants_prefill(self) -> bool:
        return self.finish is None and self.planned_prefill < self.prompt_tokens

    @property
    def wants_decode(self) -> bool:
        """Its first token is sampled or planned, and the plan holds fewer than it may have."""
        return self.finish is None and 0 < self.planned_tokens < self.request.max_tokens

    @property
    def planned_length(self) -> int:
        """Positions its slot holds once all sent steps are done, at most: iterations may be
        left out once it has sampled an end id. The latest sampled token is in no cache yet: it
        is fed by the next iteration."""
        return self.planned_prefill + max(0, self.planned_tokens - 1)

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Ids whose positions in the slot are known, in order: what can be parked. The latest
        known token is left out, since nothing may ever have fed it."""
        return self.request.prompt[: self.planned_prefill] + tuple(self.tokens[:-1])

    @property
    def progress(self) -> Progress:
        if self.finish is not None:
            phase = Phase.DRAINING
        elif self.slot is None:
            phase = Phase.QUEUED
        elif self.tokens or self.prefilled == self.prompt_tokens:
            phase = Phase.DECODE
        else:
            phase = Phase.PREFILL
        return Progress(phase, self.prompt_tokens, self.prefilled, len(self.tokens))
