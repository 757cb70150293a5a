from __future__ import annotations

import asyncio

from cluster.coordinator.changes import Changes
from tests.conftest import wait_for


async def test_each_sees_what_has_come_since_its_own_last_look() -> None:
    changes = Changes()
    seen = changes.count
    waiting = asyncio.create_task(changes.beyond(seen))
    await wait_for(lambda: bool(changes._next._waiters))  # type: ignore[attr-defined]
    changes.note()
    await asyncio.wait_for(waiting, 1)
    later = changes.count  # another has seen it, and waits for the next
    await asyncio.wait_for(changes.beyond(seen), 1)
    another = asyncio.create_task(changes.beyond(later))
    await asyncio.sleep(0)
    assert not another.done()
    changes.note()
    changes.note()
    await asyncio.wait_for(another, 1)
