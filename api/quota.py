"""What one API key may have under way and begin in a minute.

The rate is a token bucket, kept as the one time at which it is full again: each request moves
that time on by 60 / per_minute seconds, and more than a minute ahead is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from api.caller import Caller
from cluster.core.clock import Clock
from cluster.core.errors import TooManyRequests

WINDOW = 60.0
"""Seconds over which `per_minute` counts."""

CONCURRENCY_RETRY = 1.0
"""Seconds to tell a client whose other requests are under way; nobody knows when they end."""


class Quota:
    """Counts of every caller that has limits. Those of an idle one are forgotten, so it holds
    no more than there are keys in use."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way: dict[str, int] = {}
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        """Callers that anything is known of."""
        self._forget(self._clock.now())
        return len(self._under_way.keys() | self._full_at.keys())

    @contextmanager
    def enter(self, caller: Caller) -> Iterator[None]:
        """Count a request while in the block. Raises TooManyRequests at its beginning, and then
        nothing is counted."""
        self._begin(caller)
        try:
            yield
        finally:
            if caller.concurrency is not None:  # else it was not counted
                self._end(caller)

    def _begin(self, caller: Caller) -> None:
        now = self._clock.now()
        self._forget(now)
        under_way = self._under_way.get(caller.owner, 0)
        if caller.concurrency is not None and under_way >= caller.concurrency:
            raise TooManyRequests(
                f"the API key {caller.name} has {under_way} requests under way, as many as it may: "
                "wait until one has ended",
                retry_after=CONCURRENCY_RETRY,
            )
        if caller.per_minute is not None:
            full_at = self._full_at.get(caller.owner, now) + WINDOW / caller.per_minute
            if (wait := full_at - now - WINDOW) > 1e-6:
                raise TooManyRequests(
                    f"the API key {caller.name} may send {caller.per_minute} requests a minute: "
                    f"try again in {wait:.1f} s",
                    retry_after=wait,
                )
            self._full_at[caller.owner] = full_at
        if caller.concurrency is not None:
            self._under_way[caller.owner] = under_way + 1

    def _end(self, caller: Caller) -> None:
        left = self._under_way.pop(caller.owner, 0) - 1
        if left > 0:
            self._under_way[caller.owner] = left

    def _forget(self, now: float) -> None:
        for owner in [owner for owner, at in self._full_at.items() if at <= now]:
            del self._full_at[owner]
