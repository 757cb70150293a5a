"""A request on its way through the plan."""

from __future__ import annotations

from collections.abc import Sequence as Ids

from cluster.core.ids import Slot
from cluster.core.request import Finish, Phase, Progress, Request
from cluster.scheduler.prefix import pack

SUSPECT = 2
"""Crashed epochs in which a sequence was computed, from which on it may be what crashes them."""
CLEARED = 4
"""Tokens beyond where the last crash found it, after which it was not to blame."""


class Sequence:
    """One request with its slot and two sets of counts: what is planned, and what is known.

    Planned counts run ahead of known ones by the steps in flight.
    """

    def __init__(self, request: Request, submitted: float) -> None:
        self.request = request
        self.submitted = submitted
        self.begun: float | None = None
        """When it first got a slot."""
        self.slot: Slot | None = None
        self.cached = 0
        """Prompt positions that came from a parked prefix."""
        self.planned_prefill = 0
        """Prompt positions filled once all sent steps are done."""
        self.prefilled = 0
        """Prompt positions filled now."""
        self.planned_tokens = 0
        """Tokens sampled once all sent steps are done, at most: exactly as many without drafts."""
        self.tokens: list[int] = []
        """Ids sampled so far, an end id included."""
        self.feed = request.prompt
        """Ids to prefill: the prompt, and after an interruption what was generated before it."""
        self.wanted = pack(self.feed[:-1])
        """What of the feed may come from a prefix, packed: one token at least is left to compute,
        since its logits are needed."""
        self.reserved = 0
        """Cache positions set aside for it while it has a slot, or is to have one."""
        self.marks: list[int] = []
        """Lengths still ahead at which its cache is to be copied, ascending."""
        self.marked = False
        """The plan has just come to such a length."""
        self.draft = _draft(request)
        """At most so many ids are drafted for it in one iteration."""
        self.finish: Finish | None = None
        self.crashes = 0
        """Epochs that crashed while it had a slot, since it was last found not to blame."""
        self._crashed_at = 0
        """Tokens it had at the last of them."""

    @property
    def alone(self) -> bool:
        """It is computed by itself, until it has come beyond where the last crash found it."""
        return self.crashes >= SUSPECT and len(self.tokens) < self._crashed_at + CLEARED

    def crashed(self) -> None:
        """The epoch in which it had a slot has crashed."""
        cleared = self.crashes >= SUSPECT and not self.alone
        self.crashes = 1 if cleared else self.crashes + 1
        self._crashed_at = len(self.tokens)

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def most(self) -> int:
        """Cache positions it may come to need: drafts may go past its last token."""
        return self.prompt_tokens + self.request.max_tokens + self.draft

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
    def wanted_iterations(self) -> int:
        """Iterations until it has all tokens that it may have, if every draft is accepted."""
        return -(-(self.request.max_tokens - self.planned_tokens) // (1 + self.draft))

    @property
    def next_mark(self) -> int:
        """Prefill goes no further than this in one chunk."""
        return self.marks[0] if self.marks else len(self.feed)

    @property
    def planned_length(self) -> int:
        """Positions its slot holds once all sent steps are done, at most: drafts may be refused,
        and iterations left out once it has sampled an end id. The latest sampled token is in no
        cache yet: it is fed by the next iteration."""
        return self.planned_prefill + max(0, self.planned_tokens - self.fed - 1)

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Ids whose positions in the slot are known, in order: what can be parked. The latest
        known token is left out, since nothing may ever have fed it."""
        return self.feed[: self.planned_prefill] + tuple(self.tokens[self.fed : -1])

    def late(self, now: float, queue_seconds: float) -> bool:
        """It is past its deadline, or has waited too long to begin."""
        deadline = self.request.deadline
        if deadline is not None and now >= deadline:
            return True
        return self.begun is None and now >= self.submitted + queue_seconds

    def take(self, ids: Ids[int]) -> tuple[list[int], Finish | None]:
        """These ids were sampled for it. Which of them are its own, and its end, if it is
        among them."""
        taken: list[int] = []
        for token in ids:
            taken.append(token)
            self.tokens.append(token)
            if token in self.request.end_ids:
                self.finish = Finish.STOP
            elif len(self.tokens) >= self.request.max_tokens:
                self.finish = Finish.LENGTH
            if self.finish is not None:
                break
        return taken, self.finish

    def interrupt(self) -> None:
        """It has lost its slot and will begin anew: what was generated is prefilled again, and
        the next token is sampled at the same position as if nothing had happened. No step that
        computes for it may be in flight, or come to be answered."""
        self.feed = self.request.prompt + tuple(self.tokens)
        self.wanted = pack(self.feed[:-1])
        self.slot = None
        self.marks, self.marked = [], False
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


def _draft(request: Request) -> int:
    """Drafts only where what an id may be does not depend on the ids before it in more ways
    than through the model: all drafted positions are sampled at once."""
    alone = request.logprobs is not None or request.grammar or request.min_tokens > 0
    return 0 if alone or request.sampling.penalized else request.draft
