"""Which models are loaded, and which make room for others; `coordinator/fleet.py` does it.

Whoever runs models asks `look` now and then, with what is asked of each, follows the orders, and
tells what has come of them. Reads no clock; every time is in seconds on the coordinator's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cluster.core.errors import ModelDoesNotFit, ModelNotFound, NotReady, SetupError

TURN_SECONDS = 10.0
"""A model for which others wait takes new requests for so long after it was loaded, or for as
long as loading it took, if that is more."""
RETRY_SECONDS = 5.0
"""After a load that failed, requests are refused for so long with its reason."""


class State(StrEnum):
    """Where a model is."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    """At least one group of it has run."""
    UNLOADING = "unloading"
    FAILED = "failed"
    """Unloaded, since it could not be loaded."""


@dataclass(frozen=True, slots=True)
class Use:
    """What is asked of one model at one moment."""

    running: int = 0
    """Requests that are computed, or were before their epoch ended."""
    waiting: int = 0
    """Those that have not begun."""
    since: float = 0.0
    """When the oldest of all these came."""

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)


@dataclass(slots=True)
class Known:
    """One model that may be loaded."""

    id: str
    keep_alive: float | None = None
    """Seconds without a request after which it is unloaded; None for never."""
    pinned: bool = False
    """It is not unloaded, for whatever reason."""
    state: State = State.UNLOADED
    since: float = 0.0
    """When that began."""
    used: float = 0.0
    """When there last was a request, or it was loaded."""
    asked: float | None = None
    """When somebody wanted it loaded, though there may be no request; None where nobody does."""
    unasked: bool = False
    """Somebody wants it unloaded."""
    held: bool = False
    """It takes no new requests into its plan, since another model waits for its room."""
    took: float = 0.0
    """Seconds that it took to be loaded last."""
    error: str = ""
    """Why it could not be loaded."""

    @property
    def here(self) -> bool:
        """It takes memory."""
        return self.state in (State.LOADING, State.LOADED, State.UNLOADING)

    def expires(self) -> float | None:
        """When it will be unloaded if nothing is asked of it; None for never."""
        kept = self.pinned or self.keep_alive is None or self.state is not State.LOADED
        return None if kept or self.keep_alive is None else self.used + self.keep_alive


@dataclass(frozen=True, slots=True)
class Load:
    """Load it; nothing else has to go first."""

    id: str


@dataclass(frozen=True, slots=True)
class Unload:
    """End its engines; no request of it is being computed."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Let its requests end, and new ones wait."""

    id: str
    waits: str
    """The model that is to have its room."""


@dataclass(frozen=True, slots=True)
class Release:
    """Its requests need not wait any more."""

    id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing that could be unloaded makes room for it any more: its requests fail."""

    id: str
    error: SetupError


Order = Load | Unload | Hold | Release | Refuse

Room = Callable[[str, Collection[str]], SetupError | None]
"""What keeps a model from being placed beside those that are here, once some of them are gone."""

NOTHING = Use()


class Fleet:
    """The models of one server, in the order in which they were named."""

    def __init__(self, models: Iterable[Known], room: Room) -> None:
        self._models = {model.id: model for model in models}
        self._room = room

    def __iter__(self) -> Iterator[Known]:
        return iter(self._models.values())

    def __getitem__(self, model: str) -> Known:
        """Raises ModelNotFound, with those there are."""
        if model not in self._models:
            names = ", ".join(map(repr, self._models))
            served = f"{names} is" if len(self._models) == 1 else f"{names} are"
            raise ModelNotFound(
                f"the model {model[:200]!r} is not served here; {served}", param="model"
            )
        return self._models[model]

    # What is wanted

    def check(self, model: str, now: float) -> None:
        """A request for it may come. Raises ModelDoesNotFit, with the numbers, when it can't be
        placed whatever is unloaded for it, or NotReady when loading it has failed just now."""
        known = self[model]
        if known.here:
            return
        if known.state is State.FAILED and now - known.since < RETRY_SECONDS:
            raise NotReady(
                f"{known.id} could not be loaded: {known.error}",
                retry_after=RETRY_SECONDS - (now - known.since),
            )
        error = self._room(known.id, self._movable(known))
        if error is None:
            return
        pinned = [each.id for each in self if each.pinned and each.here]
        fixed = f" ({', '.join(pinned)} pinned beside it)" if pinned else ""
        raise ModelDoesNotFit(f"{known.id} can't be placed{fixed}: {error}", param="model")

    def load(self, model: str, now: float, *, pin: bool | None = None) -> None:
        """Somebody wants it loaded; raises what `check` does. `pin` None leaves that as it is."""
        self.check(model, now)
        known = self[model]
        known.unasked = False
        known.asked = None if known.state in (State.LOADING, State.LOADED) else now
        known.used = max(known.used, now)
        if pin is not None:
            known.pinned = pin

    def unload(self, model: str, *, pinned: bool = True) -> None:
        """Somebody wants it unloaded: it is, once it has no request. One that is pinned only with
        `pinned`, which takes the pin off it."""
        known = self[model]
        if known.pinned and not pinned:
            return
        known.pinned, known.asked = False, None
        known.unasked = known.state in (State.LOADING, State.LOADED)

    # What has become of orders

    def begun(self, model: str, now: float) -> None:
        """It is being loaded; to be called for a Load that nobody ordered here, too."""
        self._become(self[model], State.LOADING, now)

    def loaded(self, model: str, now: float) -> None:
        """Its first group runs."""
        known = self[model]
        if known.state is State.LOADING:
            known.took = now - known.since
            self._become(known, State.LOADED, now)
            known.used = now

    def unloaded(self, model: str, now: float, error: str = "") -> None:
        """Its engines are gone; `error` says why it could not be loaded."""
        self._become(self[model], State.FAILED if error else State.UNLOADED, now)
        self[model].error = error

    # What to do

    def look(self, now: float, uses: Mapping[str, Use]) -> list[Order]:
        """What is to be done now; each order once."""
        for known in self:
            if uses.get(known.id, NOTHING):
                known.used = max(known.used, now)
        orders = [*self._let_go(now, uses)]
        needed: set[str] = set()
        wanted = [each for each in self if not each.here and self._since(each, uses) is not None]
        for known in sorted(wanted, key=lambda each: self._since(each, uses) or 0.0):
            # One at a time: what it will take is known once it has begun.
            if any(each.state is State.LOADING for each in self):
                break
            made = self._make_room(known, now, uses, needed)
            orders += made
            if not any(isinstance(order, Load | Refuse) for order in made):
                break  # or one that needs less might always come first
        for known in self:
            if known.held and known.id not in needed:
                known.held = False
                if known.state is State.LOADED:
                    orders.append(Release(known.id))
        return orders

    def _since(self, known: Known, uses: Mapping[str, Use]) -> float | None:
        """Since when it is wanted; None where it is not."""
        use = uses.get(known.id, NOTHING)
        return use.since if use else known.asked

    def _let_go(self, now: float, uses: Mapping[str, Use]) -> Iterator[Order]:
        """Those that nobody needs, or wants, any more."""
        for known in self:
            if known.pinned or uses.get(known.id, NOTHING):
                continue
            if known.unasked and known.state in (State.LOADING, State.LOADED):
                yield self._unload(known, now, "somebody wants it unloaded")
                continue
            end = known.expires()
            if end is not None and now >= end:
                yield self._unload(known, now, f"it was idle for {now - known.used:.0f} s")

    def _make_room(
        self, known: Known, now: float, uses: Mapping[str, Use], needed: set[str]
    ) -> list[Order]:
        """The next step towards loading it. `needed` gets those that are to go for it."""
        going = [each for each in self if each.state is State.UNLOADING]
        if self._room(known.id, ()) is None:
            self._become(known, State.LOADING, now)
            return [Load(known.id)]
        if self._room(known.id, _ids(going)) is None:
            return []
        loaded = [each for each in self if each.state is State.LOADED and not each.pinned]
        idle = [each for each in loaded if _idle(each, uses.get(each.id, NOTHING))]
        idle.sort(key=lambda each: each.used)
        if (victims := self._enough(known, going, idle)) is not None:
            needed.update(_ids(victims))
            return [self._unload(each, now, f"{known.id} needs its room") for each in victims]
        busy = sorted((each for each in loaded if each not in idle), key=lambda each: each.since)
        if (victims := self._enough(known, going, idle + busy)) is None:
            error = self._room(known.id, self._movable(known))
            if error is None:
                return []  # what is being loaded has to be let finish
            self._become(known, State.FAILED, now)
            known.error = str(error)
            return [Refuse(known.id, error)]
        needed.update(_ids(victims))
        return [Hold(each.id, known.id) for each in victims if self._turn_is_over(each, now)]

    def _turn_is_over(self, known: Known, now: float) -> bool:
        """True once, when it is to take no more requests."""
        if known.held or now - known.since < max(TURN_SECONDS, known.took):
            return False
        known.held = True
        return True

    def _enough(self, known: Known, going: list[Known], others: list[Known]) -> list[Known] | None:
        """The first of `others` that make room when they go as well, without those that need not;
        None when not even all of them do."""
        for count in range(1, len(others) + 1):
            if self._room(known.id, _ids(going + others[:count])) is None:
                break
        else:
            return None
        victims = others[:count]
        for each in others[: count - 1]:
            fewer = [other for other in victims if other is not each]
            if self._room(known.id, _ids(going + fewer)) is None:
                victims = fewer
        return victims

    def _movable(self, known: Known) -> list[str]:
        """Those that are not pinned."""
        return [each.id for each in self if each is not known and not each.pinned]

    def _unload(self, known: Known, now: float, why: str) -> Unload:
        self._become(known, State.UNLOADING, now)
        return Unload(known.id, why)

    def _become(self, known: Known, state: State, now: float) -> None:
        known.state, known.since = state, now
        known.asked, known.unasked, known.error = None, False, ""
        if state is not State.LOADED:
            known.held = False


def _ids(models: Iterable[Known]) -> list[str]:
    return [model.id for model in models]


def _idle(known: Known, use: Use) -> bool:
    """Nothing of it is computed, and what waits was told to."""
    return not use.running and (known.held or not use.waiting)
