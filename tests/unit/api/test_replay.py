from __future__ import annotations

import re

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dialect import NDJSON, SSE, comment, event
from api.replay import READ_BYTES, Replay
from cluster.core.clock import ManualClock
from cluster.core.errors import Interrupted, OffsetLost
from tests.conftest import wait_for

TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)
EVENTS = st.builds(event, TEXTS, name=st.sampled_from(["", "delta"]))
FRAMES = st.lists(st.one_of(EVENTS, st.builds(comment, TEXTS)), max_size=30)


def made(frames: list[str], limit: int = 1 << 20, content_type: str = SSE) -> Replay:
    replay = Replay(limit, ManualClock())
    replay.begin(content_type, {})
    for frame in frames:
        replay.append(frame)
    return replay


def all_of(replay: Replay, offset: int = 0) -> bytes:
    parts = []
    while part := replay.take(offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


@given(FRAMES)
def test_every_event_has_the_offset_behind_it_and_is_otherwise_untouched(frames: list[str]) -> None:
    whole = all_of(made(frames))
    ids = list(re.finditer(rb"\nid: (\d+)\n\n", whole))
    assert [int(found[1]) for found in ids] == [found.end() for found in ids]
    assert len(ids) == sum(not frame.startswith(":") for frame in frames)
    assert re.sub(rb"\nid: \d+\n\n", b"\n\n", whole).decode() == "".join(frames)


@given(FRAMES)
def test_a_client_cut_at_any_byte_gets_the_identical_whole(frames: list[str]) -> None:
    replay = made(frames)
    whole = all_of(replay)
    for cut in range(len(whole) + 1):
        assert whole[:cut] + all_of(replay, cut) == whole


@given(FRAMES)
def test_a_client_that_brings_the_last_id_gets_every_event_once(frames: list[str]) -> None:
    replay = made(frames)
    whole = all_of(replay)
    for cut in range(len(whole) + 1):
        known = [found.end() for found in re.finditer(rb"\nid: \d+\n\n", whole[:cut])]
        last = known[-1] if known else 0
        assert replay.event_at(last) == last
        assert whole[:last] + all_of(replay, last) == whole


@given(FRAMES, st.integers(0, 4000))
def test_an_id_inside_an_event_goes_back_to_where_it_begins(frames: list[str], at: int) -> None:
    replay = made(frames)
    whole, place = all_of(replay), replay.event_at(at)
    if at >= len(whole):
        assert place == at
    else:
        assert place <= at
        assert place == 0 or whole[:place].endswith(b"\n\n")
        assert b"\n\n" not in whole[place:at]


@given(FRAMES, st.integers(1, 300))
def test_what_is_held_is_bounded_and_whole_events(frames: list[str], limit: int) -> None:
    whole = all_of(made(frames))
    replay = made([], limit)
    for frame in frames:
        replay.append(frame)
        newest = whole[: replay.total].rstrip(b"\n").rpartition(b"\n\n")[2]
        assert replay.held <= max(limit, len(newest) + 2)
    assert replay.total == len(whole)
    assert all_of(replay, replay.earliest) == whole[replay.earliest :]
    assert replay.earliest == 0 or whole[: replay.earliest].endswith(b"\n\n")
    for lost in (replay.earliest - 1, replay.total + 1):
        with pytest.raises(OffsetLost, match=f"bytes {replay.earliest} to {replay.total}"):
            replay.take(lost)


@given(st.integers(90, 110), st.integers(900, 1100), st.integers(9900, 10100))
def test_ids_count_their_own_digits(one: int, two: int, three: int) -> None:
    whole = all_of(made([event("x" * size) for size in (one, two, three)]))
    ends = [found.end() for found in re.finditer(rb"id: \d+\n\n", whole)]
    assert ends == [int(found) for found in re.findall(rb"id: (\d+)\n\n", whole)]


def test_much_is_taken_in_pieces_that_end_with_an_event() -> None:
    replay = made([event("x" * 1000)] * 200 + [event("y" * 2 * READ_BYTES)])
    offset, pieces = 0, []
    while part := replay.take(offset):
        assert part.endswith(b"\n\n")
        offset += len(part)
        pieces.append(len(part))
    assert offset == replay.total
    assert max(pieces[:-1]) <= READ_BYTES < pieces[-1]


def test_lines_and_bodies_have_no_ids() -> None:
    assert all_of(made(['{"a":1}\n', '{"a":2}\n'], content_type=NDJSON)) == b'{"a":1}\n{"a":2}\n'
    assert all_of(made(['{"a":"\\n\\n"}'], content_type="application/json")) == b'{"a":"\\n\\n"}'


def test_only_the_first_end_counts() -> None:
    replay = made([event("a")])
    error = Interrupted("x")
    replay.finish(event("b"), error)
    whole = all_of(replay)
    replay.finish(event("c"), Interrupted("y"))
    replay.append(event("d"))
    assert all_of(replay) == whole
    assert replay.error is error


async def test_many_readers_each_with_a_place_of_its_own() -> None:
    replay = made([])
    got: dict[int, bytes] = {}

    async def read(number: int, offset: int) -> None:
        got[number] = b""
        async for part in replay.read(offset):
            got[number] += part
            if number % 3 == 0:
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            if number % 10 == 0:
                replay.append(event(f"{number}"))
            tasks.start_soon(read, number, replay.total if number % 2 else 0)
            await wait_for(lambda number=number: number in got)
        for number in range(100):
            replay.append(event(f"more {number}"))
            if number % 7 == 0:
                await anyio.lowlevel.checkpoint()
        replay.finish(event("[DONE]"))
    whole = all_of(replay)
    for number, text in got.items():
        assert whole.endswith(text) if number % 2 else text == whole
        assert text.endswith(b"[DONE]\nid: %d\n\n" % len(whole))


async def test_a_reader_that_was_overtaken_is_told() -> None:
    replay = made([event("first")], limit=100)
    reader = aiter(replay.read(0))
    assert b"first" in await anext(reader)
    for number in range(20):
        replay.append(event(f"event {number}"))
    with pytest.raises(OffsetLost):
        await anext(reader)
