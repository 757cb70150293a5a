"""Who sends a request: what the rest of the API knows of keys."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

_KEY = "tandem.caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of one API key, or anyone where no key is needed."""

    name: str = ""
    """Of the key, for people; empty where no key is needed."""
    owner: str = ""
    """Whose streams, stored answers and counts these are: one per key, never used again for
    another; empty for all alike where no key is needed."""
    cache_scope: str = ""
    """`Order.scope`: whose prompts' prefixes this caller shares."""
    concurrency: int | None = None
    """As in Key."""
    per_minute: int | None = None
    """As in Key."""
    operator: bool = False
    """May do what concerns others: see and cancel the requests of all, load and unload models,
    drain machines."""


ANYONE = Caller(operator=True)
"""Where no key is needed: whoever reaches the server is on its machine."""
NOBODY = Caller()
"""Without a key where one is needed, at a path that answers all the same."""


def caller_of(scope: Scope) -> Caller:
    """The caller that Access has found; ANYONE outside of it."""
    found: Caller = scope.get(_KEY, ANYONE)
    return found


def set_caller(scope: Scope, caller: Caller) -> None:
    """To be called by Access alone."""
    scope[_KEY] = caller
