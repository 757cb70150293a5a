"""Another machine's clock, seen from here: by how much it is ahead, and how far off that may be.

A step is a round trip with four times: it left here at t0, had come there at t1; its result left
there at t2 and came here at t3. As in NTP (RFC 5905, section 8) the other clock is ahead by

    offset = ((t1 - t0) + (t2 - t3)) / 2,  off by at most  delay / 2,  delay = (t3 - t0) - (t2 - t1)

because both ways took at least no time. Whatever waits on the way, on either side, makes the delay
larger and so the bound weaker, never wrong. The two clocks don't run equally fast: the bound grows
with the time that the round trip took and with its age. The one with the tightest bound counts.
"""

from __future__ import annotations

from dataclasses import dataclass

DRIFT = 1e-4
"""Two clocks diverge by less than this part of the time: ten times what quartz usually does."""


@dataclass(frozen=True, slots=True)
class Offset:
    """Where another clock is, in seconds."""

    ahead: float
    """To be taken from its times to get ours."""
    error: float
    """It is wrong by no more than this."""


class RankClock:
    """The clock of one rank for as long as its process lives."""

    def __init__(self) -> None:
        self._best: Offset | None = None
        self._at = 0.0

    def observe(self, sent: float, received: float, answered: float, arrived: float) -> Offset:
        """A round trip: `sent` and `arrived` on our clock, the others on its own. What is known
        now. Round trips come in the order in which they arrived."""
        delay = max(0.0, (arrived - sent) - (answered - received))
        error = delay / 2 + DRIFT * (arrived - sent)
        new = Offset(((received - sent) + (answered - arrived)) / 2, error)
        if self._best is not None:
            known = Offset(self._best.ahead, self._best.error + DRIFT * (arrived - self._at))
            if known.error <= new.error:
                return known
        self._best, self._at = new, arrived
        return new
