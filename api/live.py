"""Whose the requests under way are, and who may know of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from api.caller import Caller
from cluster.core.ids import RequestId


@dataclass(frozen=True, slots=True)
class Asked:
    """Who has sent a request, and how."""

    owner: str
    """As in Caller."""
    key: str
    """Name of the API key; empty where none is needed."""
    dialect: str
    """As in Dialect."""


class Live:
    """Each request under way: only its owner and operators know of it, and may cancel it.
    Bounded by what the coordinator takes."""

    def __init__(self) -> None:
        self._asked: dict[RequestId, Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    @contextmanager
    def entered(self, request: RequestId, caller: Caller, dialect: str) -> Iterator[None]:
        """While in the block, the request is the caller's."""
        self._asked[request] = Asked(caller.owner, caller.name, dialect)
        try:
            yield
        finally:
            del self._asked[request]

    def asked(self, request: RequestId, caller: Caller) -> Asked | None:
        """Who has sent a request; None where that is none of the caller's business, and for one
        that is not under way."""
        found = self._asked.get(request)
        return found if found is not None and may_see(found, caller) else None

    def find(self, shown: str, caller: Caller) -> RequestId | None:
        """The request whose answer has the id `shown`; None when there is none that the caller
        may cancel."""
        # A response is shown with an underscore where its request has a dash.
        for name in (shown, shown.replace("_", "-", 1)):
            if self.asked(request := RequestId(name), caller) is not None:
                return request
        return None


def may_see(asked: Asked, caller: Caller) -> bool:
    """Whether a request is the caller's own, or they are an operator."""
    return caller.operator or asked.owner == caller.owner
