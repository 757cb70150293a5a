"""Keeps an epoch running: forms a group, drives it, forms the next when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.epoch import Progress, Recipe, open_epoch
from cluster.coordinator.members import Member
from cluster.core.errors import EpochEnded, LaunchFailed, ProtocolError, SetupError, TandemError
from cluster.core.ids import Epoch
from cluster.text.tokenizer import Tokenizer

FORMING_ATTEMPTS = 2
"""Before the first epoch runs: a port that was free a moment ago may be taken by now."""
PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between attempts after an epoch has ended; the last one repeats."""

log = structlog.get_logger()


class Runner:
    """Owns the epochs of one coordinator on a fixed set of members."""

    def __init__(
        self,
        coordinator: Coordinator,
        tokenizer: asyncio.Task[Tokenizer],
        members: Sequence[Member],
        recipe: Recipe,
        progress: Progress,
    ) -> None:
        """`tokenizer` is what the coordinator gets once it is loaded, and before it drives."""
        self._coordinator = coordinator
        self._tokenizer = tokenizer
        self._members = members
        self._recipe = recipe
        self._progress = progress
        self._epoch = 0
        self.started = asyncio.Event()
        """Set when the first epoch runs."""

    async def run(self) -> None:
        """Run epoch after epoch until cancelled. Raises the SetupError that keeps the first one
        from forming; later ones are tried again and again, and the log says why."""
        failures = 0
        while True:
            try:
                await self._one_epoch()
            except* (EpochEnded, ProtocolError) as errors:
                failures = 0
                self._ended(first_leaf(errors))
            except* SetupError as errors:
                failures += 1
                error = first_leaf(errors)
                again = isinstance(error, LaunchFailed) and failures < FORMING_ATTEMPTS
                if not self.started.is_set() and not again:
                    raise error from None
                self._ended(error)
            await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])

    async def _one_epoch(self) -> None:
        """Form a group and drive it until it ends, which raises."""
        self._epoch += 1
        self._coordinator.waiting_for("loading the model")
        async with open_epoch(
            Epoch(self._epoch), self._members, self._recipe, self._progress
        ) as group:
            self._coordinator.tokenizer = await self._tokenizer
            self._coordinator.group = group
            self.started.set()
            try:
                await self._coordinator.drive(
                    group.epoch,
                    group.ranks,
                    trimmable=group.trimmable,
                    disk_bytes=group.disk_bytes,
                )
            finally:
                self._coordinator.group = None

    def _ended(self, error: TandemError) -> None:
        log.warning("the epoch ended", epoch=self._epoch, reason=str(error))
        self._coordinator.waiting_for(f"forming a new group: {error}")


def first_leaf(errors: BaseExceptionGroup[TandemError]) -> TandemError:
    """The first real error in nested groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, TandemError)  # the group's type says so
    return error
