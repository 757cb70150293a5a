"""Tasks that outlive the request that began them, and end with the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.stdlib.get_logger("tandem.api")


class _Over(Exception):
    """Raised to cancel what is left."""


@asynccontextmanager
async def background() -> AsyncIterator[asyncio.TaskGroup]:
    """A group for such tasks. Leaving the block cancels those that still run, and waits for
    them."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
            raise _Over
    except* _Over:
        pass


async def apart(work: Coroutine[Any, Any, None], name: str) -> None:
    """Run `work` so that a bug in it is logged and ends no other task."""
    outcomes = await asyncio.gather(work, return_exceptions=True)
    if isinstance(bug := outcomes[0], Exception):
        log.error("a bug in a background task", task=name, exc_info=bug)
