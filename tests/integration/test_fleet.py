"""Models that are loaded when they are asked for, with engines that cost nothing."""

from __future__ import annotations

import asyncio

import pytest

from cluster.coordinator.fleet import Fleet
from cluster.coordinator.generation import Generation
from cluster.core.errors import (
    BadConfiguration,
    DoesNotFit,
    EngineCrashed,
    LaunchFailed,
    ModelDoesNotFit,
    ModelNotFound,
    NotReady,
    RequestCrashes,
)
from cluster.core.request import Finish
from tests.conftest import wait_for
from tests.integration.fake_fleet import FakeEngines, fleet_of, offer, order
from tests.integration.fakes import continuation

Patch = pytest.MonkeyPatch


def text(prompt: str, tokens: int = 8) -> str:
    return "".join(map(chr, continuation(tuple(map(ord, prompt)), tokens)))


async def whole(generation: Generation) -> str:
    async with asyncio.timeout(20):
        return "".join([piece.text async for piece in generation])


def state(fleet: Fleet, model: str) -> str:
    return next(view.state for view in fleet.models() if view.id == model)


async def test_one_load_for_all_that_ask(monkeypatch: Patch) -> None:
    async with fleet_of(monkeypatch, [offer("a", 4), offer("b", 4)]) as (fleet, engines):
        assert [view.state for view in fleet.models()] == ["loaded", "unloaded"]
        engines.gate.clear()
        asked = [fleet.find("b").submit(order(f"to b {i}")) for i in range(20)]
        await wait_for(lambda: state(fleet, "b") == "loading")
        assert fleet.find("b").health().advancing and fleet.find("b").loading
        assert await whole(fleet.find("a").submit(order("to a"))) == text("to a")  # beside it
        engines.gate.set()
        texts = await asyncio.gather(*map(whole, asked))
        assert texts == [text(f"to b {i}") for i in range(20)]
        assert engines.loads == ["a", "b"]
        assert not fleet.find("b").loading
        ranks = [view.replicas[0].ranks for view in fleet.models()]
        assert all(len(each) == 1 for each in ranks)


async def test_with_room_for_one_they_take_turns(monkeypatch: Patch) -> None:
    """Twenty clients that ask for both in turn: no failure, and never more than fits."""
    monkeypatch.setattr("cluster.membership.fleet.TURN_SECONDS", 0.05)
    async with fleet_of(monkeypatch, [offer("a", 6), offer("b", 6)]) as (fleet, engines):

        async def client(number: int) -> None:
            for turn in range(6):
                model = "ab"[(number + turn) % 2]
                prompt = f"{number} {turn} {model}"
                generation = fleet.find(model).submit(order(prompt, 30))
                assert await whole(generation) == text(prompt, 30)
                assert generation.finish is Finish.LENGTH

        async with asyncio.timeout(30), asyncio.TaskGroup() as clients:
            for number in range(20):
                clients.create_task(client(number))
        assert engines.peak == 6
        # Whoever waits is served by the next load: there are far fewer than requests.
        assert 2 <= len(engines.loads) <= 60
        pairs = zip(engines.loads, engines.loads[1:], strict=False)
        assert all(one != other for one, other in pairs)


async def test_a_model_that_is_used_without_pause_makes_room(monkeypatch: Patch) -> None:
    monkeypatch.setattr("cluster.membership.fleet.TURN_SECONDS", 0.2)
    async with fleet_of(monkeypatch, [offer("a", 6), offer("b", 6)]) as (fleet, engines):
        stop = asyncio.Event()

        async def busy() -> int:
            done = 0
            while not stop.is_set():
                assert await whole(fleet.find("a").submit(order("again", 60))) == text("again", 60)
                done += 1
            return done

        clients = [asyncio.create_task(busy()) for _ in range(3)]
        await wait_for(lambda: fleet.find("a").use().running)
        assert await whole(fleet.find("b").submit(order("me too"))) == text("me too")
        stop.set()
        assert min(await asyncio.gather(*clients)) > 0
        assert engines.loads[:2] == ["a", "b"]


async def test_what_can_not_be_placed_is_refused_with_the_numbers(monkeypatch: Patch) -> None:
    offers = [offer("a", 4), offer("b", 11), offer("c", 7)]
    async with fleet_of(monkeypatch, offers, pinned=["a"]) as (fleet, engines):
        with pytest.raises(ModelDoesNotFit, match="needs 11 bytes, and there are 6"):
            fleet.find("b").submit(order("no"))
        with pytest.raises(ModelDoesNotFit, match=r"\(a pinned beside it\).* 7 bytes.* are 6"):
            fleet.load("c")
        placement = fleet.placement("b")
        assert not placement.fits and "11 bytes" in placement.refusal
        assert not fleet.placement("c").fits
        fleet.unload("a")
        await wait_for(lambda: state(fleet, "a") == "unloaded")
        placement = fleet.placement("c")
        assert [(c.world, c.chosen) for c in placement.choices] == [(1, True)]
        assert placement.choices[0].nodes[0].bytes_per_rank == 7
        assert await whole(fleet.find("c").submit(order("yes"))) == text("yes")
        with pytest.raises(ModelNotFound):
            fleet.find("d")
        assert engines.loads == ["a", "c"]
        assert fleet.health().ok  # a is loaded again when it is asked for


async def test_a_load_that_fails(monkeypatch: Patch) -> None:
    async with fleet_of(monkeypatch, [offer("a", 4), offer("b", 4)]) as (fleet, engines):
        engines.error = LaunchFailed("rank 0 exited with 1")
        waits = [fleet.find("b").submit(order("x")) for _ in range(3)]
        for generation in waits:
            with pytest.raises(NotReady, match="b could not be loaded: rank 0 exited with 1"):
                await whole(generation)
        assert state(fleet, "b") == "failed"
        with pytest.raises(NotReady, match="could not be loaded"):
            fleet.find("b").submit(order("x"))
        assert await whole(fleet.find("a").submit(order("y"))) == text("y")
        engines.error = None
        monkeypatch.setattr("cluster.membership.fleet.RETRY_SECONDS", 0.0)
        assert await whole(fleet.find("b").submit(order("x"))) == text("x")


async def test_the_first_model_that_can_not_be_loaded_ends_it(monkeypatch: Patch) -> None:
    with pytest.raises(ExceptionGroup) as ended:
        async with fleet_of(monkeypatch, [offer("a", 40)]):
            pass
    assert ended.group_contains(DoesNotFit, match="40 bytes, and there are 10")


async def test_who_leaves_while_it_loads(monkeypatch: Patch) -> None:
    async with fleet_of(monkeypatch, [offer("a", 6), offer("b", 6)]) as (fleet, engines):
        engines.gate.clear()
        generation = fleet.find("b").submit(order("never mind"))
        await wait_for(lambda: state(fleet, "b") == "loading")
        generation.cancel()
        assert await whole(generation) == ""
        assert not fleet.find("b").groups[0].live.journal
        other = fleet.find("a").submit(order("and I"))  # waits for b, which goes on
        assert not other.finish
        fleet.unload("b")  # while it loads
        await wait_for(lambda: state(fleet, "b") == "unloaded")
        engines.gate.set()
        assert await whole(other) == text("and I")
        assert engines.loads == ["a", "b", "a"]


async def test_idle_models_go(monkeypatch: Patch) -> None:
    offers = [offer("a", 2), offer("b", 2), offer("c", 2)]
    async with fleet_of(monkeypatch, offers, keep_alive=0.1) as (fleet, _):
        fleet.load("b")
        fleet.load("c", pin=True)
        await wait_for(lambda: state(fleet, "c") == "loaded" and state(fleet, "b") != "loading")
        await wait_for(lambda: state(fleet, "b") == "unloaded")
        assert state(fleet, "a") == state(fleet, "c") == "loaded"
        fleet.keep("b", float("inf"))
        await whole(fleet.find("b").submit(order("stay")))
        fleet.keep("a", 0.0)  # it stays
        await asyncio.sleep(0.2)  # longer than it would be kept
        assert state(fleet, "b") == state(fleet, "a") == "loaded"
        fleet.unload("c", pinned=False)
        await whole(fleet.find("a").submit(order("x")))
        assert state(fleet, "c") == "loaded"


async def test_names(monkeypatch: Patch) -> None:
    with pytest.raises(BadConfiguration, match="--pin nobody"):
        async with fleet_of(monkeypatch, [offer("a", 1)], pinned=["nobody"]):
            pass
    with pytest.raises(BadConfiguration, match="a is there twice"):
        async with fleet_of(monkeypatch, [offer("a", 1), offer("a", 2)]):
            pass


# Several groups of one model


async def two(fleet: Fleet, engines: FakeEngines) -> None:
    await wait_for(lambda: len(engines.running) == 2)
    await wait_for(lambda: all(group.scheduler for group in fleet.default.groups))


def on(fleet: Fleet) -> list[int]:
    return [len(group.live.journal) for group in fleet.default.groups]


async def test_requests_are_spread_and_conversations_stay(monkeypatch: Patch) -> None:
    async with fleet_of(monkeypatch, [offer("a", 3)], ranks=2, replicas=2) as (fleet, engines):
        await two(fleet, engines)
        engines.slow.clear()
        live = [fleet.default.submit(order(f"{i} is another question")) for i in range(10)]
        assert on(fleet) == [5, 5]
        engines.slow.set()
        await asyncio.gather(*map(whole, live))
        await wait_for(lambda: on(fleet) == [0, 0])
        begun = ["one " * 100, "two " * 100, "six " * 100]
        for turn in range(4):
            for place, prompt in enumerate(begun):
                generation = fleet.default.submit(order(prompt))
                answer = await whole(generation)
                assert answer == text(prompt)
                assert bool(generation.usage.cached_tokens > 300) == (turn > 0)
                begun[place] = prompt + answer + " and then? "
                await wait_for(lambda: on(fleet) == [0, 0])


async def test_losing_one_group_loses_nothing(monkeypatch: Patch) -> None:
    async with fleet_of(monkeypatch, [offer("a", 3)], ranks=2, replicas=2) as (fleet, engines):
        await two(fleet, engines)
        prompts = [f"{i} is a long one" for i in range(10)]
        live = [fleet.default.submit(order(prompt, 900)) for prompt in prompts]
        texts = [asyncio.create_task(whole(generation)) for generation in live]
        await wait_for(lambda: min(one.progress.generated for one in live) > 20)
        assert on(fleet) == [5, 5]
        engines.gate.clear()  # it does not come back
        engines.running["a", 0].failure = EngineCrashed("killed by signal 9")
        await wait_for(lambda: on(fleet) == [0, 10])
        assert fleet.health().ok
        assert fleet.models()[0].replicas[0].epoch == 0
        new = fleet.default.submit(order("a new one"))
        assert await whole(new) == text("a new one")
        assert await asyncio.gather(*texts) == [text(prompt, 900) for prompt in prompts]
        tallies = [group.tally for group in fleet.default.groups]
        assert tallies[1].replayed == 5
        engines.gate.set()


async def test_a_request_that_crashes_engines_is_found_across_groups(monkeypatch: Patch) -> None:
    """In flight in two crashed epochs, of different groups, it is computed alone, and fails."""
    async with fleet_of(monkeypatch, [offer("a", 3)], ranks=2, replicas=2) as (fleet, engines):
        await two(fleet, engines)
        good = [fleet.default.submit(order(f"good {i}", 2500)) for i in range(4)]
        texts = [asyncio.create_task(whole(generation)) for generation in good]
        await wait_for(lambda: min(one.progress.generated for one in good) > 20)
        engines.poison = tuple(map(ord, "evil"))
        with pytest.raises(RequestCrashes, match="crashed 3 times"):
            await whole(fleet.default.submit(order("evil")))
        assert engines.crashed == [0, 1, 1]  # moved once, and then not where it harms others
        assert await asyncio.gather(*texts) == [text(f"good {i}", 2500) for i in range(4)]
