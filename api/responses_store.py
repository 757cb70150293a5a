"""Responses that can be asked for again: bounded in number, bytes and time.

Each belongs to an owner, and no other finds it. Where all of them together are too many or too
large, those go first that the owner who holds most has not used for longest. One that still runs
stays; the coordinator bounds how many do, and `EVENT_BYTES` how large each becomes.

A response holds its own input and output only: a conversation is the chain of
`previous_response_id`, and using it keeps all of it young.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from api.convert.openai_responses_items import StoredItem
from api.stored_response import Stored
from cluster.core.clock import Clock, SystemClock
from cluster.core.errors import InvalidRequest, NotFound


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Of all stored responses together."""

    count: int = 1000
    size: int = 64 << 20
    """Bytes, about."""
    seconds: float = 86400.0
    """How long one is kept that nobody uses."""


class _Shelf:
    """What one owner has."""

    def __init__(self) -> None:
        self.responses: OrderedDict[str, Stored] = OrderedDict()
        """The one not used for longest first."""
        self.items: dict[str, tuple[str, StoredItem]] = {}
        """Each item, and the response that holds it, by the item's id."""

    def add_items(self, owner: Stored, items: Iterable[StoredItem]) -> None:
        for item in items:
            self.items.setdefault(item["id"], (owner.id, item))

    def forget(self, response_id: str) -> None:
        gone = self.responses.pop(response_id)
        for item in (*gone.items, *gone.response["output"]):
            if self.items.get(item["id"], ("",))[0] == response_id:
                del self.items[item["id"]]

    @property
    def size(self) -> int:
        return sum(one.size for one in self.responses.values())


class ResponsesStore:
    """All that are held. Read by several threads; does nothing that blocks."""

    def __init__(self, limits: StoreLimits | None = None, clock: Clock | None = None) -> None:
        self._limits = limits or StoreLimits()
        self._clock = clock or SystemClock()
        self._shelves: dict[str, _Shelf] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return sum(len(shelf.responses) for shelf in self._shelves.values())

    def open(self, owner: str, response: Stored) -> None:
        """Hold one that begins."""
        with self._lock:
            shelf = self._shelves.setdefault(owner, _Shelf())
            response.used = self._clock.now()
            shelf.responses[response.id] = response
            shelf.add_items(response, response.items)
            self._sweep()

    def close(self, owner: str, response: Stored) -> None:
        """It is over. Closing it twice, or after it was deleted, does no more."""
        with self._lock:
            if response.over:
                return
            response.end()
            shelf = self._shelves.get(owner)
            if shelf is not None and response.id in shelf.responses:
                shelf.add_items(response, response.response["output"])
            self._sweep()

    def get(self, owner: str, response_id: str) -> Stored:
        """Raises NotFound, also for another owner's."""
        with self._lock:
            self._sweep()
            return self._use(owner, response_id)

    def delete(self, owner: str, response_id: str) -> None:
        """Raises NotFound. One that goes on without its client is stopped."""
        with self._lock:
            found = self._use(owner, response_id)
            self._forget(owner, response_id)
        if found.cancel is not None:
            found.cancel()

    def earlier(self, owner: str) -> OwnersEarlier:
        """What requests of `owner` may refer to."""
        return OwnersEarlier(self, owner)

    def conversation(self, owner: str, response_id: str) -> list[StoredItem]:
        """See Earlier."""
        chain: list[Stored] = []
        following: str | None = response_id
        with self._lock:
            self._sweep()
            while following is not None:
                try:
                    found = self._use(owner, following)
                except NotFound as error:
                    error.param = "previous_response_id"
                    raise
                if not found.over:
                    raise InvalidRequest(
                        f"previous_response_id: {found.id} is still in progress",
                        param="previous_response_id",
                    )
                chain.append(found)
                following = found.previous
        return [item for one in reversed(chain) for item in (*one.items, *one.response["output"])]

    def item(self, owner: str, item_id: str) -> StoredItem:
        """See Earlier."""
        with self._lock:
            self._sweep()
            shelf = self._shelves.get(owner)
            if shelf is None or item_id not in shelf.items:
                raise NotFound(f"there is no item {item_id[:200]!r}", param="input")
            response_id, item = shelf.items[item_id]
            self._use(owner, response_id)
            return item

    def _use(self, owner: str, response_id: str) -> Stored:
        shelf = self._shelves.get(owner)
        if shelf is None or response_id not in shelf.responses:
            raise NotFound(
                f"there is no response {response_id[:200]!r}: it was never stored, or deleted, "
                "or is no longer held"
            )
        found = shelf.responses[response_id]
        shelf.responses.move_to_end(response_id)
        found.used = self._clock.now()
        return found

    def _forget(self, owner: str, response_id: str) -> None:
        shelf = self._shelves[owner]
        shelf.forget(response_id)
        if not shelf.responses:
            del self._shelves[owner]

    def _sweep(self) -> None:
        """Forget what is too old, then what is too much."""
        oldest = self._clock.now() - self._limits.seconds
        for owner, shelf in list(self._shelves.items()):
            for one in list(shelf.responses.values()):
                if one.used >= oldest:
                    break
                if one.over:
                    self._forget(owner, one.id)
        while (len(self) > self._limits.count or self._size > self._limits.size) and (
            found := self._expendable()
        ):
            self._forget(*found)

    @property
    def _size(self) -> int:
        return sum(shelf.size for shelf in self._shelves.values())

    def _expendable(self) -> tuple[str, str] | None:
        """Owner and id of what goes next; None when all that is left still runs."""
        many = len(self) > self._limits.count

        def held(owner: str) -> int:
            shelf = self._shelves[owner]
            return len(shelf.responses) if many else shelf.size

        for owner in sorted(self._shelves, key=held, reverse=True):
            for one in self._shelves[owner].responses.values():
                if one.over:
                    return owner, one.id
        return None


class OwnersEarlier:
    """An `api.convert.openai_responses_read.Earlier`."""

    def __init__(self, store: ResponsesStore, owner: str) -> None:
        self._store = store
        self._owner = owner

    def conversation(self, response_id: str) -> list[StoredItem]:
        """See Earlier."""
        return self._store.conversation(self._owner, response_id)

    def item(self, item_id: str) -> StoredItem:
        """See Earlier."""
        return self._store.item(self._owner, item_id)
