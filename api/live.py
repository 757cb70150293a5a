"""Whose the requests under way are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.core.ids import RequestId


class Live:
    """The owner of each request under way: only they may cancel it. Bounded by what the
    coordinator takes."""

    def __init__(self) -> None:
        self._owners: dict[RequestId, str] = {}

    def __len__(self) -> int:
        return len(self._owners)

    @contextmanager
    def entered(self, request: RequestId, owner: str) -> Iterator[None]:
        """While in the block, the request is `owner`'s."""
        self._owners[request] = owner
        try:
            yield
        finally:
            del self._owners[request]

    def find(self, shown: str, owner: str) -> RequestId | None:
        """The request of `owner` whose answer has the id `shown`; None when there is none."""
        # A response is shown with an underscore where its request has a dash.
        for name in (shown, shown.replace("_", "-", 1)):
            if self._owners.get(request := RequestId(name)) == owner:
                return request
        return None
