"""Which models are loaded: a memory of so many bytes, and models that take some of them each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import (
    BadConfiguration,
    ModelDoesNotFit,
    ModelNotFound,
    NotReady,
    SetupError,
)
from cluster.membership.fleet import (
    RETRY_SECONDS,
    TURN_SECONDS,
    Fleet,
    Hold,
    Known,
    Load,
    Order,
    Refuse,
    Release,
    State,
    Unload,
    Use,
)


class Memory:
    """What models take of `size` bytes."""

    def __init__(self, size: int, **models: int) -> None:
        self.size = size
        self.takes = models
        self.fleet = Fleet(map(Known, models), self.room)

    def room(self, model: str, without: Collection[str]) -> SetupError | None:
        held = sum(
            self.takes[each.id] for each in self.fleet if each.here and each.id not in without
        )
        free = self.size - held
        if self.takes[model] <= free:
            return None
        return BadConfiguration(f"it needs {self.takes[model]}, and {free} are free")

    def loaded(self, *models: str, now: float = 0.0) -> Fleet:
        for model in models:
            self.fleet.begun(model, now)
            self.fleet.loaded(model, now)
        return self.fleet

    def state(self, model: str) -> State:
        return self.fleet[model].state


def waiting(since: float = 0.0, count: int = 1) -> Use:
    return Use(waiting=count, since=since)


BUSY = Use(running=1)


def test_what_is_not_named_is_not_there() -> None:
    fleet = Memory(1, a=1, b=1).fleet
    with pytest.raises(ModelNotFound, match=r"'c' is not served here; 'a', 'b' are$"):
        fleet.check("c", 0.0)
    with pytest.raises(ModelNotFound, match="'a' is$"):
        Memory(1, a=1).fleet.load("b", 0.0)


def test_it_is_loaded_once_for_all_that_wait() -> None:
    memory = Memory(10, a=6, b=4)
    fleet = memory.fleet
    assert fleet.look(0.0, {}) == []
    fleet.check("a", 1.0)
    assert fleet.look(1.0, {"a": waiting(1.0)}) == [Load("a")]
    assert memory.state("a") is State.LOADING
    for now in range(2, 5):
        assert fleet.look(now, {"a": waiting(1.0, now)}) == []
    fleet.loaded("a", 5.0)
    assert memory.state("a") is State.LOADED
    assert fleet["a"].took == 4.0
    assert fleet.look(5.0, {"a": BUSY, "b": waiting(4.0)}) == [Load("b")]  # beside it


def test_one_load_at_a_time() -> None:
    memory = Memory(10, a=5, b=5)
    fleet = memory.fleet
    both = {"a": waiting(2.0), "b": waiting(1.0)}
    assert fleet.look(2.0, both) == [Load("b")]  # who has waited for longer
    assert fleet.look(3.0, both) == []
    fleet.loaded("b", 4.0)
    assert fleet.look(4.0, both) == [Load("a")]


def test_who_was_not_used_for_longest_makes_room() -> None:
    memory = Memory(10, a=3, b=3, c=3, d=5)
    fleet = memory.loaded("a", "b", "c")
    fleet.look(1.0, {"b": BUSY})
    fleet.look(2.0, {"a": BUSY})
    fleet.look(3.0, {"c": BUSY})
    assert fleet.look(4.0, {"d": waiting(4.0)}) == [
        Unload("b", "d needs its room"),
        Unload("a", "d needs its room"),
    ]
    fleet.unloaded("b", 5.0)
    assert fleet.look(5.0, {"d": waiting(4.0)}) == []  # until a is gone too
    fleet.unloaded("a", 6.0)
    assert fleet.look(6.0, {"d": waiting(4.0)}) == [Load("d")]


def test_no_more_than_need_be_goes() -> None:
    memory = Memory(10, a=2, b=8, c=7)
    fleet = memory.loaded("a")
    fleet.loaded("b", 0.0)
    memory.loaded("b", now=1.0)
    # a was used longest ago, and does not make room for it; b alone does.
    assert fleet.look(2.0, {"c": waiting(2.0)}) == [Unload("b", "c needs its room")]


@pytest.mark.parametrize("use", [BUSY, waiting()])
def test_who_has_requests_stays_until_its_turn_is_over(use: Use) -> None:
    memory = Memory(10, a=6, b=6)
    fleet = memory.loaded("a")
    wants = {"a": use, "b": waiting(1.0)}
    assert fleet.look(1.0, wants) == []
    assert fleet.look(TURN_SECONDS - 0.1, wants) == []
    assert fleet.look(TURN_SECONDS, wants) == [Hold("a", "b")]
    assert fleet["a"].held
    assert fleet.look(30.0, {"a": Use(1, 5), "b": waiting(1.0)}) == []  # once
    assert fleet.look(31.0, {"a": waiting(12.0, 5), "b": waiting(1.0)}) == [
        Unload("a", "b needs its room")
    ]
    fleet.unloaded("a", 32.0)
    assert not fleet["a"].held
    wants = {"a": waiting(12.0, 5), "b": waiting(1.0)}
    assert fleet.look(32.0, wants) == [Load("b")]  # it has waited for longer
    fleet.loaded("b", 33.0)
    wants = {"a": waiting(12.0, 5), "b": BUSY}
    assert fleet.look(33.0, wants) == []
    assert fleet.look(33.0 + TURN_SECONDS, wants) == [Hold("b", "a")]


def test_a_turn_is_as_long_as_loading_took() -> None:
    memory = Memory(10, a=6, b=6)
    fleet = memory.fleet
    fleet.begun("a", 0.0)
    fleet.loaded("a", 60.0)
    wants = {"a": BUSY, "b": waiting(1.0)}
    assert fleet.look(119.0, wants) == []
    assert fleet.look(120.0, wants) == [Hold("a", "b")]


def test_who_leaves_does_not_make_others_wait() -> None:
    memory = Memory(10, a=6, b=6)
    fleet = memory.loaded("a")
    assert fleet.look(20.0, {"a": BUSY, "b": waiting(20.0)}) == [Hold("a", "b")]
    assert fleet.look(21.0, {"a": Use(1, 3)}) == [Release("a")]
    assert fleet.look(22.0, {"a": Use(4, 0)}) == []


def test_idle_for_too_long() -> None:
    memory = Memory(10, a=2, b=2, c=2)
    fleet = memory.loaded("a", "b", "c")
    fleet["b"].keep_alive = 300.0
    fleet["c"].keep_alive = 0.0
    assert fleet["a"].expires() is None and fleet["b"].expires() == 300.0
    assert fleet.look(50.0, {"b": BUSY, "c": BUSY}) == []
    assert fleet.look(51.0, {}) == [Unload("c", "it was idle for 1 s")]
    assert fleet.look(349.0, {}) == []
    assert fleet.look(350.0, {"b": waiting(350.0)}) == []
    assert fleet.look(650.0, {}) == [Unload("b", "it was idle for 300 s")]
    assert fleet.look(1e9, {}) == []


def test_a_pin_holds_against_everything() -> None:
    memory = Memory(10, a=6, b=6)
    fleet = memory.loaded("a")
    fleet["a"].pinned, fleet["a"].keep_alive = True, 1.0
    assert fleet.look(100.0, {}) == [] and fleet["a"].expires() is None
    message = r"^b can't be placed \(a pinned beside it\): it needs 6, and 4 are free$"
    with pytest.raises(ModelDoesNotFit, match=message):
        fleet.check("b", 100.0)
    fleet.check("a", 100.0)
    fleet.unload("a")  # which takes it off
    assert fleet.look(101.0, {}) == [Unload("a", "somebody wants it unloaded")]
    fleet.check("b", 101.0)


def test_what_can_never_be_placed_is_refused_with_the_numbers() -> None:
    memory = Memory(10, a=6, b=11)
    fleet = memory.loaded("a")
    with pytest.raises(ModelDoesNotFit, match=r"^b can't be placed: it needs 11, and 10 are free$"):
        fleet.check("b", 0.0)
    with pytest.raises(ModelDoesNotFit):
        fleet.load("b", 0.0, pin=True)
    assert not fleet["b"].pinned


def test_machines_that_go_meanwhile() -> None:
    memory = Memory(10, a=4, b=8)
    fleet = memory.loaded("a")
    fleet.check("b", 0.0)
    memory.size = 5
    (order,) = fleet.look(1.0, {"b": waiting(0.0)})
    assert isinstance(order, Refuse) and str(order.error) == "it needs 8, and 5 are free"
    assert memory.state("b") is State.FAILED and memory.state("a") is State.LOADED


def test_loads_and_unloads_that_are_asked_for() -> None:
    memory = Memory(10, a=6, b=6)
    fleet = memory.fleet
    fleet.load("a", 1.0, pin=False)
    assert fleet.look(1.0, {}) == [Load("a")]
    fleet.load("a", 2.0, pin=True)  # twice does no harm
    fleet.loaded("a", 3.0)
    assert fleet.look(3.0, {}) == [] and fleet["a"].pinned
    fleet.unload("a")
    assert fleet.look(4.0, {"a": BUSY}) == []  # not while it has requests
    assert fleet.look(5.0, {}) == [Unload("a", "somebody wants it unloaded")]
    fleet.load("b", 5.0)
    assert fleet.look(5.0, {}) == []  # until it is gone
    fleet.unloaded("a", 6.0)
    assert fleet.look(6.0, {}) == [Load("b")]
    fleet.unload("b")
    assert fleet.look(7.0, {}) == [Unload("b", "somebody wants it unloaded")]  # while it loads
    fleet.unloaded("b", 8.0)
    fleet.loaded("b", 8.0)  # too late
    assert memory.state("b") is State.UNLOADED
    fleet.unload("b")
    assert fleet.look(9.0, {}) == []


def test_a_load_that_fails() -> None:
    memory = Memory(10, a=6)
    fleet = memory.fleet
    fleet.look(1.0, {"a": waiting(1.0)})
    fleet.unloaded("a", 2.0, "rank 0 exited with 1")
    assert memory.state("a") is State.FAILED and fleet["a"].error
    assert fleet.look(2.0, {}) == []
    with pytest.raises(NotReady, match="a could not be loaded: rank 0 exited with 1") as refused:
        fleet.check("a", 4.0)
    assert refused.value.retry_after == 3.0
    fleet.check("a", 2.0 + RETRY_SECONDS)
    assert fleet.look(8.0, {"a": waiting(8.0)}) == [Load("a")]
    assert not fleet["a"].error


# Any sequence of requests


@dataclass
class World:
    """Models, their requests, and what the shell would do: loads and requests take a while."""

    memory: Memory
    pinned: str | None = None
    now: float = 0.0
    requests: dict[str, list[float]] = field(default_factory=dict)
    """When those that wait came."""
    ends: dict[str, list[float]] = field(default_factory=dict)
    """When those that run will end."""
    doing: dict[str, float] = field(default_factory=dict)
    """When what is being done with a model is done."""
    loads: int = 0
    longest: float = 0.0

    def use(self, model: str) -> Use:
        came, ends = self.requests.get(model, []), self.ends.get(model, [])
        return Use(len(ends), len(came), min(came, default=self.now))

    def step(self, seconds: float) -> None:
        fleet = self.memory.fleet
        self.now += seconds
        for model, when in list(self.doing.items()):
            if when <= self.now:
                del self.doing[model]
                if fleet[model].state is State.UNLOADING:
                    fleet.unloaded(model, self.now)
                else:
                    fleet.loaded(model, self.now)
        for known in fleet:
            self.ends[known.id] = [end for end in self.ends.get(known.id, []) if end > self.now]
            if known.state is State.LOADED and not known.held:
                for came in self.requests.pop(known.id, []):
                    self.longest = max(self.longest, self.now - came)
                    self.ends[known.id].append(self.now + 1.0 + came % 4)
        orders = fleet.look(self.now, {known.id: self.use(known.id) for known in fleet})
        for order in orders:
            self.follow(order)
        taken = sum(self.memory.takes[known.id] for known in fleet if known.here)
        assert taken <= self.memory.size
        assert sum(known.state is State.LOADING for known in fleet) <= 1

    def follow(self, order: Order) -> None:
        match order:
            case Load(model):
                assert model not in self.doing
                self.loads += 1
                self.doing[model] = self.now + 2.0
            case Unload(model):
                assert model not in self.doing and model != self.pinned
                assert not self.ends[model]
                self.doing[model] = self.now + 0.5
            case Refuse():
                raise AssertionError(order)
            case Hold() | Release():
                pass


SIZES = st.lists(st.integers(1, 10), min_size=2, max_size=5)
ARRIVALS = st.lists(st.tuples(st.integers(0, 4), st.floats(0.05, 3.0)), max_size=60)


@given(SIZES, ARRIVALS, st.booleans(), st.sampled_from((None, 0.0, 1.0)))
def test_any_order_of_requests(
    sizes: list[int], arrivals: list[tuple[int, float]], pins: bool, keep_alive: float | None
) -> None:
    names = [f"m{place}" for place in range(len(sizes))]
    memory = Memory(10 + (min(sizes) if pins else 0), **dict(zip(names, sizes, strict=True)))
    world = World(memory)
    if pins:
        world.pinned = names[sizes.index(min(sizes))]
        memory.fleet[world.pinned].pinned = True
    for known in memory.fleet:
        known.keep_alive = keep_alive
    for place, pause in arrivals:
        model = names[place % len(names)]
        memory.fleet.check(model, world.now)
        world.requests.setdefault(model, []).append(world.now)
        world.step(pause)
    for _ in range(600):
        if not any(world.requests.values()) and not any(world.ends.values()):
            break
        world.step(0.25)
    else:
        raise AssertionError(f"still there: {world.requests}, {world.ends}")
    # A turn, what runs then, an unload and a load, for each of the others, and some more.
    assert world.longest <= len(names) * (TURN_SECONDS + 5.0 + 2.5 + 3.0)
    assert world.loads <= len(arrivals)
    if keep_alive is not None:
        for _ in range(20):
            world.step(0.25)
        assert all(known.pinned or not known.here for known in memory.fleet)
