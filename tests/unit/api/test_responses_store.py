"""The store of responses: whose they are, how long they are kept, how their events are read."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from api.convert.openai_responses_items import message_item
from api.responses_store import ResponsesStore, StoreLimits
from api.stored_response import Stored
from cluster.core.clock import ManualClock
from cluster.core.errors import InvalidRequest, NotFound, OffsetLost


class Writing:
    """A response that says its own name."""

    def __init__(self, name: str) -> None:
        self.id = name

    def response(self) -> dict[str, Any]:
        return {"id": self.id, "output": [message_item(f"msg_{self.id}", self.id, "completed")]}

    def sign(self) -> str:
        return ": alive\n\n"


def asked(name: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": f"{name}?"}]
    return {"id": f"in_{name}", "type": "message", "role": "user", "content": content}


def stored(name: str, *, size: int = 100, previous: str | None = None, **more: Any) -> Stored:
    return Stored(Writing(name), [asked(name)], size=size, previous=previous, **more)


def keep(store: ResponsesStore, owner: str, one: Stored) -> Stored:
    store.open(owner, one)
    store.close(owner, one)
    return one


def event(number: int) -> str:
    return f"event: e\ndata: {number}\n\n"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_each_belongs_to_its_owner(clock: ManualClock) -> None:
    store = ResponsesStore(clock=clock)
    one = keep(store, "a", stored("r"))
    assert store.get("a", "r") is one
    for call in (store.get, store.delete, store.conversation):
        with pytest.raises(NotFound):
            call("b", "r")
    with pytest.raises(NotFound):
        store.item("b", "in_r")
    store.delete("a", "r")
    with pytest.raises(NotFound):
        store.delete("a", "r")
    with pytest.raises(NotFound):
        store.item("a", "in_r")
    assert len(store) == 0


async def test_a_conversation_is_a_chain(clock: ManualClock) -> None:
    store = ResponsesStore(clock=clock)
    keep(store, "", stored("r1"))
    keep(store, "", stored("r2", previous="r1"))
    earlier = store.earlier("")
    ids = [item["id"] for item in earlier.conversation("r2")]
    assert ids == ["in_r1", "msg_r1", "in_r2", "msg_r2"]
    assert earlier.item("msg_r1")["content"][0]["text"] == "r1"
    store.delete("", "r1")
    with pytest.raises(NotFound) as raised:
        earlier.conversation("r2")
    assert raised.value.param == "previous_response_id"
    store.open("", stored("r3"))
    with pytest.raises(InvalidRequest, match="in progress"):
        earlier.conversation("r3")


async def test_the_one_not_used_for_longest_goes_first(clock: ManualClock) -> None:
    store = ResponsesStore(StoreLimits(count=2), clock)
    for name in "ab":
        keep(store, "", stored(name))
    store.get("", "a")
    keep(store, "", stored("c"))
    store.get("", "a")
    with pytest.raises(NotFound):
        store.get("", "b")


async def test_too_many_bytes_are_the_largest_owners(clock: ManualClock) -> None:
    store = ResponsesStore(StoreLimits(size=1000), clock)
    keep(store, "small", stored("s", size=300))
    for name in "abc":
        keep(store, "large", stored(name, size=300))
    store.get("small", "s")
    with pytest.raises(NotFound):
        store.get("large", "a")
    assert len(store) == 3


async def test_what_runs_stays(clock: ManualClock) -> None:
    store = ResponsesStore(StoreLimits(count=1, seconds=10), clock)
    running = stored("r")
    store.open("", running)
    keep(store, "", stored("s"))
    clock.advance(20)
    assert store.get("", "r") is running
    with pytest.raises(NotFound):
        store.get("", "s")
    store.close("", running)
    store.close("", running)
    assert store.get("", "r").over


async def test_nobody_uses_it_for_long(clock: ManualClock) -> None:
    store = ResponsesStore(StoreLimits(seconds=10), clock)
    keep(store, "", stored("a"))
    keep(store, "", stored("b"))
    clock.advance(8)
    store.get("", "a")
    clock.advance(8)
    store.get("", "a")
    with pytest.raises(NotFound):
        store.get("", "b")
    clock.advance(11)
    with pytest.raises(NotFound):
        store.item("", "in_a")
    assert len(store) == 0


async def test_deleting_stops_what_runs_and_closing_it_then_is_nothing(clock: ManualClock) -> None:
    store = ResponsesStore(clock=clock)
    one = stored("r")
    stopped: list[bool] = []
    one.cancel = lambda: stopped.append(True)
    store.open("", one)
    store.delete("", "r")
    assert stopped
    store.close("", one)
    assert one.over
    assert len(store) == 0
    with pytest.raises(NotFound):
        store.item("", "msg_r")


async def test_readers_follow_from_their_own_places() -> None:
    one = stored("r")
    one.add(event(0) + ": alive\n\n" + event(1))
    found: dict[int, str] = {}

    async def read(after: int) -> None:
        found[after] = "".join([frames async for frames in one.follow(after)])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for after in (-1, 0, 1):
                tasks.start_soon(read, after)
            await anyio.lowlevel.checkpoint()
            one.add(event(2))
            await anyio.lowlevel.checkpoint()
            one.end()
    assert found == {
        -1: event(0) + event(1) + event(2),
        0: event(1) + event(2),
        1: event(2),
    }
    assert one.response["id"] == "r"
    assert one.sign() == ""


async def test_events_beyond_the_bound_are_lost_and_said_to_be() -> None:
    one = stored("r", event_bytes=200)
    for number in range(100):
        one.add(event(number))
    assert one.size <= 100 + 200
    with pytest.raises(OffsetLost, match="to 99 are held"):
        one.check_place(0)
    with pytest.raises(OffsetLost):
        one.check_place(100)
    one.end()
    last = "".join([frames async for frames in one.follow(98)])
    assert last == event(99)
    assert [frames async for frames in one.follow(99)] == []
