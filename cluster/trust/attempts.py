"""How often somebody may fail: guesses cost the guesser time, and nobody else."""

from __future__ import annotations

from collections import OrderedDict

from cluster.core.errors import TooManyRequests

FAILURES = 5
"""At once, and then one each SECONDS / FAILURES."""
SECONDS = 60.0
MOST_HOSTS = 1024
"""That are remembered; of more, the one that was quiet longest is forgotten."""


class Attempts:
    """A leaky bucket of failures for each address. The time (seconds, monotonic) is passed in."""

    def __init__(self) -> None:
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._empty_at)

    def check(self, host: str, now: float) -> None:
        """Raise TooManyRequests when `host` has failed too often to be heard."""
        wait = self._empty_at.get(host, now) - now - SECONDS + SECONDS / FAILURES
        if wait > 1e-6:
            raise TooManyRequests(
                f"too many failed attempts from {host}: try again in {wait:.0f} s",
                retry_after=wait,
            )

    def failed(self, host: str, now: float) -> None:
        """`host` was heard, and refused."""
        self._empty_at[host] = max(now, self._empty_at.get(host, now)) + SECONDS / FAILURES
        self._empty_at.move_to_end(host)
        if len(self._empty_at) > MOST_HOSTS:
            self._empty_at.popitem(last=False)
