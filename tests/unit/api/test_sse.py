from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import anyio
import pytest

from api.hangup import until_hangup
from api.sse import Connection, signs_of_life
from tests.conftest import wait_for


class Sent:
    """What an application has sent; `hold` makes it wait, as a slow reader does."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self.starts = 0
        self.ended = False
        self.hold: anyio.Event | None = None

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.starts += 1
            return
        assert not self.ended
        if self.hold is not None:
            await self.hold.wait()
        self.frames.append(message["body"].decode())
        self.ended = not message["more_body"]


async def test_frames() -> None:
    sent = Sent()
    stream = Connection(sent)
    await stream.start("text/event-stream", {})
    await stream.write("data: a\n\ndata: b\n\n")
    await stream.write("")
    await stream.sign(": c\n\n", after=0)
    await stream.end("data: [DONE]\n\n")
    assert sent.frames == ["data: a\n\ndata: b\n\n", ": c\n\n", "data: [DONE]\n\n"]
    assert sent.ended
    assert sent.starts == 1


async def test_a_busy_stream_needs_no_sign_of_life() -> None:
    sent = Sent()
    stream = Connection(sent)
    await stream.start("text/event-stream", {})
    async with signs_of_life(stream, 0.2, lambda: ": alive\n\n"):
        end = anyio.current_time() + 0.5
        while anyio.current_time() < end:
            await stream.write("data: x\n\n")
            await anyio.sleep(0.01)
    assert all(frame.startswith("data") for frame in sent.frames)


async def test_a_quiet_stream_shows_life_again_and_again() -> None:
    sent = Sent()
    stream = Connection(sent)
    await stream.start("text/event-stream", {})
    words = iter([": one\n\n", ": two\n\n", ": three\n\n"])
    begun = anyio.current_time()
    async with signs_of_life(stream, 0.03, lambda: next(words, None)):
        await wait_for(lambda: len(sent.frames) == 3)
    assert sent.frames == [": one\n\n", ": two\n\n", ": three\n\n"]
    assert anyio.current_time() - begun >= 0.09


async def test_nothing_to_tell() -> None:
    sent = Sent()
    stream = Connection(sent)
    await stream.start("text/event-stream", {})
    asked = 0

    def say() -> None:
        nonlocal asked
        asked += 1

    async with signs_of_life(stream, 0.02, say):
        await wait_for(lambda: asked >= 3)
    assert sent.frames == []


async def test_a_slow_reader_gets_whole_frames_and_no_late_comment() -> None:
    sent = Sent()
    stream = Connection(sent)
    await stream.start("text/event-stream", {})
    sent.hold = anyio.Event()
    said = 0

    def say() -> str:
        nonlocal said
        said += 1
        return ": alive\n\n"

    async with anyio.create_task_group() as tasks, signs_of_life(stream, 0.02, say):
        tasks.start_soon(stream.write, "data: x\n\n")
        await wait_for(lambda: said)
        sent.hold.set()
        await wait_for(lambda: sent.frames)
        assert sent.frames[0] == "data: x\n\n"
        assert sent.frames.count(": alive\n\n") <= 1


async def test_until_hangup_cancels_the_block_and_goes_on() -> None:
    left = anyio.Event()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    cancelled = False
    async with until_hangup(receive):
        left.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled = True
            raise
    assert cancelled


async def test_until_hangup_ends_with_its_block() -> None:
    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    async with until_hangup(receive):
        result = 1
    assert result == 1


async def test_until_hangup_lets_bugs_through() -> None:
    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(ExceptionGroup):
        async with until_hangup(receive):
            raise RuntimeError
