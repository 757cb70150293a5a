"""Which engines an agent has, and whom it obeys about them. Does no I/O.

An engine is the secret of its epoch and its rank: several coordinators, and several groups of one,
count their epochs from 1.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from cluster.core.cluster import LaunchSpec
from cluster.core.errors import LaunchFailed, NotAuthorized, NotFound
from cluster.core.ids import Rank

MOST_ENGINES = 64
REMEMBERED = 256
"""Epochs, those that are over included, of which is known who has asked for them."""


class Launched(Protocol):
    """What an agent keeps of one engine."""

    @property
    def spec(self) -> LaunchSpec: ...


T = TypeVar("T", bound=Launched)


class Launches(Generic[T]):
    """The engines of one agent, of any number of epochs."""

    def __init__(self, where: str) -> None:
        """`where` names the agent in errors."""
        self._where = where
        self._all: list[T] = []
        self._newest: dict[str, int] = {}
        """By secret: the highest incarnation of a coordinator that has asked for that epoch. It
        outlasts the engines: one that was replaced is told so, and not that they are gone."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._all))

    def admit(self, launch: T) -> None:
        """Take another engine. Raises LaunchFailed when its rank has one or when there are
        MOST_ENGINES, NotAuthorized as `of` does."""
        spec = launch.spec
        if any(
            other.spec.plan.rank == spec.plan.rank
            for other in self.of(spec.secret, spec.incarnation)
        ):
            raise LaunchFailed(
                f"rank {spec.plan.rank} of epoch {spec.epoch} already runs on {self._where}"
            )
        if len(self._all) >= MOST_ENGINES:
            raise LaunchFailed(f"{self._where} already runs {MOST_ENGINES} engines")
        self._all.append(launch)
        self._newest[spec.secret] = spec.incarnation
        if len(self._newest) > REMEMBERED:
            running = {each.spec.secret for each in self._all}
            del self._newest[next(secret for secret in self._newest if secret not in running)]

    def of(self, secret: str, incarnation: int) -> list[T]:
        """The engines of the epoch with that secret, for a coordinator of that incarnation; none
        when it is not known. From now on no older coordinator gets them: raises NotAuthorized for
        one that was replaced."""
        for known, newest in self._newest.items():
            if hmac.compare_digest(known.encode(), secret.encode()):
                if incarnation < newest:
                    raise NotAuthorized(f"coordinator {incarnation} was replaced by {newest}")
                self._newest[known] = incarnation
                return [launch for launch in self._all if launch.spec.secret == known]
        return []

    def find(self, secret: str, rank: Rank, incarnation: int) -> T:
        """One of them. Raises NotFound when there is none, NotAuthorized as `of` does."""
        for launch in self.of(secret, incarnation):
            if launch.spec.plan.rank == rank:
                return launch
        raise NotFound(f"no engine of rank {rank} of that epoch runs on {self._where}")

    def incarnation(self, launch: T) -> int:
        """Of the newest coordinator that has asked for it."""
        return self._newest[launch.spec.secret]

    def forget(self, launch: T) -> None:
        """It is gone; nothing when it was forgotten before."""
        if launch in self._all:
            self._all.remove(launch)
