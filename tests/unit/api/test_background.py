"""Tasks that outlive their request, and end with the server."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import structlog

from api.background import apart
from api.service import Service
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.unit.api.fake import FakeCoordinator


async def test_what_is_left_is_cancelled_and_waited_for(tokenizer: Tokenizer) -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await anyio.lowlevel.checkpoint()
            seen.append("ended")

    with anyio.fail_after(5):
        async with Service(FakeCoordinator(tokenizer), 4.0) as service:
            service.tasks.create_task(apart(work(), "work"))
            await wait_for(lambda: seen)
    assert seen == ["begun", "ended"]


async def test_a_bug_is_logged_and_ends_nothing_else(tokenizer: Tokenizer) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    over = asyncio.Event()
    with structlog.testing.capture_logs() as lines, anyio.fail_after(5):
        async with Service(FakeCoordinator(tokenizer), 4.0) as service:
            other = service.tasks.create_task(apart(asyncio.sleep(0), "other"))
            task = service.tasks.create_task(apart(broken(), "broken"))
            task.add_done_callback(lambda _: over.set())
            await over.wait()
            await other
    assert [line["task"] for line in lines] == ["broken"]
