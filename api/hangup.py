"""Noticing at once that a client has left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.types import Receive


@asynccontextmanager
async def until_hangup(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client leaves, and go on quietly after it.

    To be entered once the whole body has been read: from then on all that `receive` can say is
    that the client is gone, and it says so when it happens, not at the next write.
    """
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel("the client has left")

        tasks.start_soon(listen, name="until_hangup")
        yield
        tasks.cancel_scope.cancel("answered")
