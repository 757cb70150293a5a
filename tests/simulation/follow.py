"""What an agent tells of one engine, as epoch.py follows it: from the call that launches it, over
as many calls as it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.coordinator.epoch import REACH_SECONDS, RETRY_SECONDS, Place
from cluster.core.cluster import Exited, LaunchSpec, Ready
from cluster.core.errors import (
    EngineCrashed,
    LaunchFailed,
    NodeLost,
    NodeUnreachable,
    NotAuthorized,
    NotFound,
    SetupError,
    TandemError,
)
from cluster.wire.node_client import ANSWER_SECONDS, SILENCE_SECONDS
from tests.simulation.network import Stream
from tests.simulation.node import Attach, Node
from tests.simulation.world import Do

if TYPE_CHECKING:
    from tests.simulation.runner import Runner


class Follow:
    """Of one rank."""

    def __init__(
        self, runner: Runner, place: Place, came_up: Do, over: Callable[[TandemError], None]
    ) -> None:
        """`came_up` is called once, `over` once at most."""
        node = place.member
        assert isinstance(node, Node)
        self.ready = False
        self._runner = runner
        self._head = runner.head
        self._node = node
        self._spec = place.spec
        self._came_up = came_up
        self._over = over
        self._closed = False
        self._stream: Stream | None = None
        self._heard = self._head.world.now()

    def launch(self) -> None:
        self._call(self._spec)

    def attach(self) -> None:
        """To an engine that runs."""
        spec = self._spec
        self._call(Attach(spec.secret, spec.plan.rank, self._head.incarnation))

    def close(self) -> None:
        self._closed = True
        if self._stream is not None:
            self._stream.close(0)
            self._stream = None

    def _call(self, orders: LaunchSpec | Attach) -> None:
        head = self._head
        agent = self._node.agent
        assert agent is not None
        began = head.world.now()
        done = False

        def opened(stream: Stream) -> None:
            nonlocal done
            if done or self._closed or not head.alive:
                stream.close(0)
                return
            done = True
            self._stream = stream
            stream.hear[0] = lambda message: self._told(stream, message)
            stream.broken[0] = lambda: self._unreached(stream)
            agent.accept(stream)
            stream.send(0, orders)
            self._listen(stream)

        def failed() -> None:
            nonlocal done
            if not done:
                done = True
                self._unreached(None)

        head.machine.network.connect(head, agent, opened, failed)
        head.after(ANSWER_SECONDS, failed)
        self._heard = max(self._heard, 0.0 if self.ready else began)

    def _listen(self, stream: Stream) -> None:
        """An agent that falls silent is not there."""

        def look() -> None:
            if self._stream is stream and not self._closed:
                if self._head.world.now() - self._heard >= SILENCE_SECONDS:
                    stream.close(0)
                    self._unreached(stream)
                else:
                    self._head.after(1.0, look)

        self._head.after(1.0, look)

    def _told(self, stream: Stream, message: object) -> None:
        if self._stream is not stream or self._closed:
            return
        self._heard = self._head.world.now()
        match message:
            case Ready():
                if not self.ready:
                    self.ready = True
                    self._came_up()
            case Exited(code):
                why = f"the engine of rank {self._spec.plan.rank} exited with {code}"
                self._over(EngineCrashed(why) if self.ready else LaunchFailed(why))
            case NotFound():
                if self.ready:
                    self._over(NodeLost(f"the engine of rank {self._spec.plan.rank} is gone"))
                else:
                    self._refused(LaunchFailed(str(message)))
            case SetupError():
                self._refused(message)
            case NotAuthorized():
                self._over(message)

    def _refused(self, error: TandemError) -> None:
        self._head.roster.failed(self._node.name, self._head.world.now())
        self._over(error)

    def _unreached(self, stream: Stream | None) -> None:
        head = self._head
        if self._closed or (stream is not None and self._stream is not stream):
            return
        self._stream = None
        name, rank = self._node.name, self._spec.plan.rank
        unheard = min(head.world.now() - self._heard, self._runner.coordinator.silent_for())
        if not self.ready:
            self._refused(NodeUnreachable(f"{name} does not answer"))
        elif unheard > REACH_SECONDS:
            self._over(NodeLost(f"the engine of rank {rank} on {name} is gone"))
        else:

            def again() -> None:
                if not self._closed and self._stream is None:
                    self.attach()

            head.after(RETRY_SECONDS, again)
