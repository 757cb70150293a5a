"""Machines and what connects them: questions, single messages, and streams that break."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from tests.simulation.world import Do, Process, World

T = TypeVar("T")
FAR = 0.0003
"""Seconds from one machine to another, about."""
RESEND = 0.25
"""Seconds after which TCP tries again what a cut cable has swallowed."""

KEEPALIVE = 20.0
"""Seconds after which a connection to nowhere is given up (cluster/wire/security.py)."""


class Network:
    """Who reaches whom, and how fast."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.blocked: set[tuple[str, str]] = set()
        """From one host to another; nothing that is sent gets through."""
        self.dark: set[str] = set()
        """Hosts without power, or in a deep sleep."""
        self.slow: dict[str, float] = {}
        """By host: how many times longer than usual a message takes."""
        self.loss = 0.0
        """Share of single messages that get lost; as many come twice."""
        self.streams: dict[Stream, None] = {}
        """Those that are open, oldest first."""

    def reaches(self, here: str, there: str) -> bool:
        dark = self.dark
        return (here, there) not in self.blocked and here not in dark and there not in dark

    def delay(self, here: str, there: str) -> float:
        far = FAR * (0.5 + self.world.random.random())
        if self.slow:
            far *= max(self.slow.get(here, 1.0), self.slow.get(there, 1.0))
        return far

    def carry(self, here: str, there: str, what: Do) -> None:
        """`what` is done there, if it can be reached."""
        if self.reaches(here, there):
            self.world.after(self.delay(here, there), what)

    def single(self, here: str, there: str, what: Do) -> None:
        """The same with a message that may be lost, come twice, or be overtaken."""
        for _ in range(2 if self.loss and self.world.chance(self.loss) else 1):
            if self.loss and self.world.chance(self.loss):
                continue
            if self.reaches(here, there):
                late = self.world.random.random() * self.loss
                self.world.after(self.delay(here, there) + late, what)

    def ask(
        self,
        caller: Process,
        there: str,
        find: Callable[[], Process | None],
        question: Callable[[], T],
        answer: Callable[[T | None], None],
        seconds: float,
    ) -> None:
        """Ask whoever `find` finds there by then; None when that can't be had within `seconds`."""
        answered = False

        def tell(told: T | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                answer(told)

        def arrive() -> None:
            asked = find()
            if asked is None or not asked.alive:
                self.carry(there, caller.host, lambda: caller.do(lambda: tell(None)))
            else:
                asked.do(reply)

        def reply() -> None:
            told = question()
            self.carry(there, caller.host, lambda: caller.do(lambda: tell(told)))

        self.carry(caller.host, there, arrive)
        caller.after(seconds, lambda: tell(None))

    def connect(
        self,
        caller: Process,
        callee: Process,
        opened: Callable[[Stream], None],
        refused: Do,
    ) -> None:
        """`opened` with a stream to a process that lives, `refused` when only its machine does;
        neither when that can't be reached."""

        def arrive() -> None:
            if callee.alive:
                self.carry(callee.host, caller.host, lambda: caller.do(made))
            else:
                self.carry(callee.host, caller.host, lambda: caller.do(refused))

        def made() -> None:
            opened(Stream(self, caller, callee))

        self.carry(caller.host, callee.host, arrive)


class Stream:
    """Messages both ways, each once and in order, until it breaks: then those under way are
    lost. Side 0 has called side 1."""

    def __init__(self, network: Network, caller: Process, callee: Process) -> None:
        self.open = True
        self.hear: list[Callable[[object], None]] = [_nobody, _nobody]
        """By side: who gets what comes."""
        self.broken: list[Do] = [_nothing, _nothing]
        """By side: who is told that it is broken; not who has closed it."""
        self.caller = caller
        self._network = network
        self._sides = (caller, callee)
        self._on_its_way: tuple[deque[object], deque[object]] = (deque(), deque())
        """By the side that gets it."""
        self._moving = [False, False]
        for side, process in enumerate(self._sides):
            process.ends[self] = lambda quietly, side=side: self._died(side, quietly=quietly)
        network.streams[self] = None

    def send(self, side: int, message: object) -> None:
        """What is sent on a broken stream is lost."""
        if self.open:
            to = 1 - side
            self._on_its_way[to].append(message)
            if not self._moving[to]:
                self._moving[to] = True
                self._after(to, self._network.delay(*self._way(to)))

    def close(self, side: int) -> None:
        """All that was sent arrives first."""
        self.send(side, _END)
        self.hear[side], self.broken[side] = _nobody, _nothing

    def cut(self) -> None:
        """It breaks: some of what is under way still arrives."""
        if not self.open:
            return
        for side in (0, 1):
            self._lose(side)
        self._over()
        for side in (0, 1):
            self._tell(side, self._network.world.random.random() * 0.3)

    def _lose(self, to: int) -> None:
        """Of what is under way, only the first few arrive."""
        waiting = self._on_its_way[to]
        if not self._network.reaches(*self._way(to)):
            return
        for _ in range(self._network.world.random.randrange(len(waiting) + 1)):
            self._deliver(to, waiting.popleft())

    def _over(self) -> None:
        self.open = False
        self._network.streams.pop(self, None)
        for process in self._sides:
            process.ends.pop(self, None)

    def _tell(self, side: int, late: float) -> None:
        """That it is broken, if anything gets there; or else by its keepalive."""
        if not self._network.reaches(*self._way(side)):
            late = KEEPALIVE
        told = self.broken[side]
        self._sides[side].after(late, told)

    def _died(self, side: int, *, quietly: bool) -> None:
        if self.open:
            if not quietly:
                self._lose(1 - side)
            self._over()
            delay = self._network.delay(*self._way(1 - side))
            self._tell(1 - side, KEEPALIVE if quietly else delay)

    def _way(self, to: int) -> tuple[str, str]:
        return self._sides[1 - to].host, self._sides[to].host

    def _after(self, to: int, seconds: float) -> None:
        self._network.world.after(seconds, lambda: self._arrive(to))

    def _arrive(self, to: int) -> None:
        if not self.open:
            return
        if not self._network.reaches(*self._way(to)):
            self._after(to, RESEND)
            return
        self._moving[to] = False
        waiting = self._on_its_way[to]
        while waiting and self.open:
            self._deliver(to, waiting.popleft())

    def _deliver(self, to: int, message: object) -> None:
        process = self._sides[to]
        if message is _END:
            self._over()
            process.do(self.broken[to])
        else:
            process.do(lambda: self.hear[to](message))


_END = object()


def _nobody(message: object) -> None:
    """Nobody listens any more."""


def _nothing() -> None:
    """Nobody is told."""
