"""What the scheduler says has happened; the coordinator tells those concerned."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.core.ids import RequestId
from cluster.core.plan import Likelihood
from cluster.core.request import Finish


@dataclass(frozen=True, slots=True)
class Sampled:
    """New tokens of a request, in order."""

    request_id: RequestId
    ids: tuple[int, ...]
    """Text of the answer; an end id is not among them."""
    count: int
    """Tokens sampled, an end id included."""
    finish: Finish | None
    """Set when these are the last."""
    likelihoods: tuple[Likelihood, ...] = ()
    """One for each of `ids`, when the request asked for them."""


@dataclass(frozen=True, slots=True)
class Released:
    """Every rank has let go of the request's slot, or it never had one."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class Drained:
    """Tokens that were computed past the end of a request."""

    request_id: RequestId
    count: int


Event = Sampled | Released | Drained
