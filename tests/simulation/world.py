"""Virtual time, one source of chance, and what happens next."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable

Do = Callable[[], None]


class World:
    """A run is a function of its seed. Is a Clock, too."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.log: list[str] = []
        """The transcript."""
        self._time = 0.0
        self._due: list[tuple[float, int, Do]] = []
        self._count = 0

    def now(self) -> float:
        return self._time

    def after(self, seconds: float, do: Do) -> None:
        """What comes at the same time comes in the order in which it was asked for."""
        self._count += 1
        heapq.heappush(self._due, (self._time + seconds, self._count, do))

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
        """Go on for so long, or until `done()`; True when that came first."""
        end = self._time + seconds
        while self._due and self._due[0][0] <= end:
            self._time, _, do = heapq.heappop(self._due)
            do()
            if done is not None and done():
                return True
        self._time = end
        return False

    def say(self, who: str, what: str) -> None:
        """One line of the transcript."""
        self.log.append(f"{self._time:9.4f}  {who:<4} {what}")

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random.random()

    def chance(self, share: float) -> bool:
        return self.random.random() < share


class Lock:
    """As asyncio's: whoever comes while it is taken waits, first come first served."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Do] = deque()

    def take(self, do: Do) -> None:
        """`do` is called when it is theirs, until they free it."""
        if self._taken:
            self._waiting.append(do)
        else:
            self._taken = True
            do()

    def free(self) -> None:
        self._taken = False
        if self._waiting:
            self.take(self._waiting.popleft())


class Process:
    """What can die, stand still and go on. All it does goes through `do`."""

    def __init__(self, world: World, name: str, host: str) -> None:
        self.world = world
        self.name = name
        self.host = host
        """Of the machine that it runs on."""
        self.alive = True
        self.stopped = False
        self.ends: dict[object, Callable[[bool], None]] = {}
        """What is to be told when it dies, and whether the rest of its machine goes on."""
        self._waiting: list[Do] = []

    def do(self, what: Do) -> None:
        """Now, or once it goes on; never when it is dead."""
        if not self.alive:
            return
        if self.stopped:
            self._waiting.append(what)
        else:
            what()

    def after(self, seconds: float, what: Do) -> None:
        self.world.after(seconds, lambda: self.do(what))

    def every(self, seconds: float, what: Do) -> None:
        def again() -> None:
            what()
            self.after(seconds, again)

        self.after(seconds, again)

    def stop(self) -> None:
        """As SIGSTOP does: its connections stay open."""
        self.stopped = True

    def go_on(self) -> None:
        self.stopped = False
        while self._waiting and self.alive and not self.stopped:
            self._waiting.pop(0)()

    def die(self, *, quietly: bool = False) -> None:
        """With its machine when `quietly`: then nobody is told."""
        if self.alive:
            self.alive = False
            self._waiting.clear()
            for told in list(self.ends.values()):
                told(quietly)
            self.ends.clear()
