"""Requests that attach to an answer instead of being computed, and whose answers they see."""

from __future__ import annotations

import anyio
import pytest

from cluster.core.errors import EpochEnded
from tests.conftest import wait_for
from tests.integration.streams import (
    CONV,
    HELLO,
    KEY,
    Server,
    text_of,
)
from tests.unit.api.fake import FakeCoordinator, Gate, question


async def test_two_api_keys_can_t_see_each_other(
    server: Server, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = ["Hi", gate, "!"]
    await server.begin(gate, "c", x_owner="one", Idempotency_Key="k")
    assert (await server.get("c", x_owner="two")).status_code == 404
    assert (await server.get("c")).status_code == 404
    await server.http.delete("/v1/stream/c", headers={"X-Owner": "two"})
    coordinator.script = ["mine"]
    await server.ask("c", x_owner="two", Idempotency_Key="k")
    await server.ask(x_owner="two")  # what the orphan of the other computes
    assert len(coordinator.generations) == 3
    assert coordinator.generations[0].finish is None
    gate.open()
    assert text_of((await server.get("c", x_owner="one")).content) == "Hi!"
    assert text_of((await server.get("c", x_owner="two")).content) == "mine"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_repeated_key_attaches(
    server: Server, coordinator: FakeCoordinator, stream: bool
) -> None:
    gate = Gate()
    coordinator.script = ["Hel", gate, "lo"]
    body, answers = question(stream=stream), []

    async def ask() -> None:
        answers.append(await server.ask(body=body, Idempotency_Key="k"))

    async with anyio.create_task_group() as clients:
        for _ in range(5):
            clients.start_soon(ask)
        await wait_for(lambda: sum(s.followers for s in server.streams._all) == 5)
        other = await server.ask(body=question(stream=stream, seed=2), Idempotency_Key="k")
        gate.open()
    await ask()
    assert len(coordinator.generations) == 1
    assert len({answer.content for answer in answers}) == 1
    assert b"Hel" in answers[0].content
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 5
    assert {answer.headers["content-type"] for answer in answers} == {
        "text/event-stream; charset=utf-8" if stream else "application/json"
    }
    elsewhere = await server.ask("another", body=body, Idempotency_Key="k")
    for refused in (other, elsewhere):
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == KEY
    await server.ask(body=body, Idempotency_Key="k", X_Owner="other")
    assert len(coordinator.generations) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_key_of_a_request_that_failed_computes_it_again(
    server: Server, coordinator: FakeCoordinator, stream: bool
) -> None:
    coordinator.scripts = [["Hel", EpochEnded("lost")]]
    failed = await server.ask("c", body=question(stream=stream), Idempotency_Key="k")
    assert failed.status_code == (200 if stream else 503)
    assert b"epoch_ended" in failed.content
    assert failed.headers.get("retry-after") == (None if stream else "1")
    again = await server.get("c")
    assert (again.status_code, again.content) == (failed.status_code, failed.content)
    good = await server.ask("c", body=question(stream=stream), Idempotency_Key="k")
    assert "world" in good.text
    assert len(coordinator.generations) == 2
    assert len(server.streams) == 1


async def test_a_key_outlives_its_conversation_s_next_turn(
    server: Server, coordinator: FakeCoordinator
) -> None:
    first = await server.ask("c", Idempotency_Key="k1")
    await server.ask("c", body=question(stream=True, seed=2), Idempotency_Key="k2")
    again = await server.ask("c", Idempotency_Key="k1")
    assert again.content == first.content
    assert len(coordinator.generations) == 2


@pytest.mark.parametrize("first", [{CONV: "c"}, {KEY: "k"}])
@pytest.mark.parametrize("done", [True, False])
async def test_the_identical_request_attaches_to_an_orphan(
    server: Server, coordinator: FakeCoordinator, first: dict[str, str], done: bool
) -> None:
    gate = Gate()
    coordinator.script = ["Hel", gate, "lo"]
    await server.begin(gate, **first)
    coordinator.script = [*HELLO]
    for headers in ({CONV: "other"}, {KEY: "other"}, {"X-Owner": "other"}):
        await server.ask(**headers)
    assert len(coordinator.generations) == 4
    if done:
        gate.open()
        await wait_for(lambda: coordinator.generations[0].closed)
        again = await server.ask(**first)
    else:
        async with server.asked() as reader:
            await server.ask()  # the first client is there again
            assert len(coordinator.generations) == 5
            gate.open()
            again = reader
            await again.aread()
    assert text_of(again.content) == "Hello"
    assert again.headers["idempotent-replayed"] == "true"
    before = len(coordinator.generations)
    await server.ask()  # its answer was delivered
    assert len(coordinator.generations) == before + 1


async def test_equal_requests_whose_clients_are_there_get_a_sample_each(
    server: Server, coordinator: FakeCoordinator
) -> None:
    gate = Gate()
    coordinator.script = ["Hel", gate, "lo"]
    async with server.asked("a"), server.asked("b"), server.asked():
        await wait_for(lambda: len(coordinator.generations) == 3)
        gate.open()


@pytest.mark.parametrize("header", [CONV, KEY])
async def test_who_comes_back_needs_no_more_of_the_key_s_limits(
    server: Server, coordinator: FakeCoordinator, header: str
) -> None:
    gate = Gate()
    coordinator.script = ["Hi", gate, "!"]
    own = {"x_owner": "one", "x_concurrency": "1", header: "k"}
    await server.begin(gate, **own)
    another = await server.ask(body=question(seed=1), x_owner="one", x_concurrency="1")
    assert another.status_code == 429
    async with server.asked(**own) as response:
        gate.open()
        assert response.status_code == 200
        assert text_of(await response.aread()) == "Hi!"
    assert len(coordinator.generations) == 1
