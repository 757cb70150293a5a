"""What all endpoints of one server share."""

from __future__ import annotations

import anyio

from api.convert.recall import Recall
from api.live import Live
from api.quota import Quota
from api.serving import Coordinator
from cluster.core.clock import SystemClock

TOKENIZING_THREADS = 2
"""Prompts that are tokenized at the same time; more wait."""


class Service:
    """One server's coordinator, and what the API keeps beside it."""

    def __init__(self, coordinator: Coordinator, sign_of_life: float) -> None:
        self.coordinator = coordinator
        self.sign_of_life = sign_of_life
        """Seconds of silence before a stream's sign of life."""
        self.recall = Recall()
        self.quota = Quota(SystemClock())
        self.live = Live()
        self.tokenizing = anyio.CapacityLimiter(TOKENIZING_THREADS)
