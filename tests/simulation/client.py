"""Clients: they submit, read, wait, and change their minds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.coordinator.generation import Generation
from cluster.core.channel import ChannelState
from cluster.core.errors import Busy, TandemError
from cluster.core.request import Finish, Order
from cluster.core.sampling import Sampling
from tests.simulation.checks import Checks
from tests.simulation.head import Head
from tests.simulation.model import answer
from tests.simulation.world import World


@dataclass(frozen=True)
class Wish:
    """What one client does."""

    name: str
    order: Order
    at: float
    cancels: float | None = None
    """So many seconds after submission it hangs up."""
    looks: float | None = None
    """It reads only now and then; None: whatever comes, at once."""
    poison: bool = False


class Client:
    """One request, from its first attempt to its end."""

    def __init__(
        self, world: World, checks: Checks, wish: Wish, head: Callable[[], Head | None]
    ) -> None:
        self.wish = wish
        self.text = ""
        self.tokens = 0
        self.state = "not submitted"
        self.head: Head | None = None
        """The coordinator that has taken it."""
        self.generation: Generation | None = None
        self.expected: tuple[str, Finish] = ("", Finish.LENGTH)
        self.replays: list[int] = []
        """How many tokens were known each time that it began anew."""
        self._world = world
        self._checks = checks
        self._find = head
        self._tries = 0
        world.after(wish.at, self._submit)

    @property
    def over(self) -> bool:
        return self.state in ("complete", "cancelled", "failed", "refused", "dropped")

    @property
    def live(self) -> bool:
        return self.state == "live"

    def _say(self, what: str) -> None:
        self._world.say(self.wish.name, what)

    def _submit(self) -> None:
        head = self._find()
        self._tries += 1
        try:
            if head is None or not head.alive or head.stopped:
                raise Busy("nobody answers", retry_after=1.0)
            generation = head.served.submit(self.wish.order)
        except TandemError as error:
            self._say(f"refused: {type(error).__name__}")
            self._checks.refused(head, error)
            if isinstance(error, Busy) and self._tries < 40:
                self._world.after(error.retry_after * self._world.between(0.5, 1.5), self._submit)
            else:
                self.state = "refused"
            return
        self._say("submitted")
        self.state = "live"
        self.head, self.generation = head, generation
        entry = generation._entry
        self.expected = answer(entry.request, self.wish.order.stop)
        self._checks.submitted(self)
        head.ends[self] = lambda quietly: self._dropped()
        entry.channel.wake = self._wake
        if self.wish.looks is not None:
            self._now_and_then(self.wish.looks)
        if self.wish.cancels is not None:
            self._world.after(self.wish.cancels, self._hang_up)
        head.pump()
        self._wake()

    def _dropped(self) -> None:
        """The coordinator's process is gone: the connection closes without a finish."""
        if self.live:
            self._say("dropped")
            self.state = "dropped"

    def _hang_up(self) -> None:
        head = self.head
        if self.live and head is not None:
            head.do(self._cancel)

    def _cancel(self) -> None:
        if self.live and self.generation is not None and self.head is not None:
            self._say("hangs up")
            self.generation.cancel()
            self._checks.cancelled(self)
            self.head.pump()

    def _now_and_then(self, seconds: float) -> None:
        def look() -> None:
            if self.live:
                self._read()
                self._world.after(seconds, look)

        self._world.after(seconds, look)

    def _wake(self) -> None:
        generation = self.generation
        if generation is None or not self.live:
            return
        if self.wish.looks is None or generation.finish is not None:
            self._read()

    def _read(self) -> None:
        """All that is there, and the end."""
        assert self.generation is not None
        channel = self.generation._channel
        if (piece := channel.take()) is not None:
            self.text += piece.text
            self.tokens += piece.tokens
            self._checks.read(self)
        if channel.state is not ChannelState.OPEN:
            assert channel.finish is not None
            states = {Finish.CANCELLED: "cancelled", Finish.FAILED: "failed"}
            self.state = states.get(channel.finish, "complete")
            error = f": {type(channel.error).__name__}" if channel.error else ""
            self._say(f"{self.state} with {self.tokens} tokens{error}")
            if self.head is not None:
                self.head.ends.pop(self, None)
            self._checks.finished(self, channel.finish, channel.error)


def order(prompt: tuple[int, ...], tokens: int, seed: int, **more: object) -> Order:
    return Order(prompt, Sampling(seed=seed), tokens, **more)  # type: ignore[arg-type]
