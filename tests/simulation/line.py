"""The coordinator's side of an engine, as wire/engine_client.py does it: one session over as many
streams as it takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from cluster.core.cluster import Hello
from cluster.core.errors import (
    EpochEnded,
    NodeLost,
    NodeUnreachable,
    NotAuthorized,
    ProtocolError,
    TandemError,
)
from cluster.core.plan import Step, StepResult
from cluster.core.session import Session
from cluster.wire.engine_client import (
    ATTEMPT_SECONDS,
    PAUSES,
    REFUSALS,
    RESUME_SECONDS,
    SILENT_SECONDS,
)
from cluster.wire.engine_stream import CONNECT_SECONDS
from cluster.wire.line import ACK_SECONDS
from tests.simulation.checks import Violated
from tests.simulation.engine import Engine, Frame
from tests.simulation.network import Network, Stream
from tests.simulation.world import Process

LOOK_SECONDS = 0.5


class Line:
    """To one engine."""

    def __init__(
        self,
        owner: Process,
        network: Network,
        engine: Engine,
        hello: Hello,
        opened: Callable[[Hello], None],
        result: Callable[[], None],
        over: Callable[[TandemError], None],
    ) -> None:
        """`opened` is called once, `result` when there is one more, `over` once at most."""
        self.session: Session[Step] = Session()
        self.results: deque[StepResult] = deque()
        self._owner = owner
        self._network = network
        self._engine = engine
        self._hello = hello
        self._opened = opened
        self._result = result
        self._over = over
        self._begun = False
        self._closed = False
        self._stream: Stream | None = None
        self._attempt = 0
        self._greeted = False
        self._tries = self._refusals = 0
        self._broken_since = 0.0
        self._further = True
        self._silent = 0.0
        self._acking = False

    def open(self) -> None:
        """Begin the session."""
        self._call(CONNECT_SECONDS)

    def close(self) -> None:
        self._closed = True
        self._attempt += 1
        if self._stream is not None:
            self._stream.close(0)
            self._stream = None

    def send(self, step: Step) -> None:
        if self.session.full:
            raise Violated(10, f"{self.session.kept} messages are kept")
        self.session.put(step)
        self._flush()

    def look(self) -> None:
        """Twice a second: give up a stream on which nothing comes."""
        if self._closed or self._stream is None or not self._begun:
            return
        self._silent = self._silent + LOOK_SECONDS if self.session.kept else 0.0
        if self._silent >= SILENT_SECONDS:
            self._stream.close(0)
            self._stream = None
            self._break("nothing came")

    # One attempt

    def _call(self, seconds: float) -> None:
        self._attempt += 1
        attempt = self._attempt
        hello = self._hello
        if self._begun:
            hello = replace(hello, received=self.session.received)

        def current() -> bool:
            return attempt == self._attempt and not self._closed

        def opened(stream: Stream) -> None:
            if not current() or not self._engine.alive:
                stream.close(0)
                return
            self._stream = stream
            stream.hear[0] = lambda message: self._hear(stream, message)
            stream.broken[0] = lambda: self._broken(stream)
            accept = self._engine.accept
            accept(stream)
            stream.send(0, hello)

        def refused() -> None:
            if current():
                self._refusals += 1
                self._failed("connection refused")

        def late() -> None:
            if current() and (self._stream is None or not self._greeted):
                if self._stream is not None:
                    self._stream.close(0)
                    self._stream = None
                self._refusals = 0
                self._failed("no answer")

        self._greeted = False
        self._network.connect(self._owner, self._engine, opened, refused)
        self._owner.after(seconds, late)

    def _failed(self, why: str) -> None:
        self._attempt += 1
        if not self._begun:
            self._end(NodeUnreachable(f"{self._engine.name}: {why}"))
            return
        if self._refusals >= REFUSALS:
            self._end(EpochEnded(f"{self._engine.name} refused {self._refusals} connections"))
        elif self._owner.world.now() >= self._broken_since + RESUME_SECONDS:
            self._end(NodeLost(f"{self._engine.name} did not answer any more"))
        else:
            self._again()

    def _again(self) -> None:
        pause = PAUSES[min(self._tries, len(PAUSES) - 1)]
        self._tries += 1
        self._owner.after(pause, lambda: None if self._closed else self._call(ATTEMPT_SECONDS))

    def _broken(self, stream: Stream) -> None:
        if stream is self._stream and not self._closed:
            self._stream = None
            if self._begun and self._greeted:
                self._break("the stream broke")
            else:
                self._refusals = 0
                self._failed("the stream broke")

    def _break(self, why: str) -> None:
        if self._further or not self.session.kept:
            self._broken_since = self._owner.world.now()
            self._further = False
        self._tries = self._refusals = 0
        self._silent = 0.0
        self._greeted = False
        self._attempt += 1
        self._again()

    def _end(self, error: TandemError) -> None:
        if not self._closed:
            self._over(error)

    # One stream

    def _hear(self, stream: Stream, message: object) -> None:
        if stream is not self._stream or self._closed:
            return
        self._silent = 0.0
        if isinstance(message, TandemError):
            known = not self._begun or isinstance(message, NotAuthorized)
            self._end(message if known else EpochEnded(str(message)))
        elif isinstance(message, Hello):
            self._greet(message)
        else:
            assert isinstance(message, Frame)
            self._take(message)

    def _greet(self, theirs: Hello) -> None:
        self._greeted = True
        try:
            if self._begun:
                assert theirs.received is not None
                self.session.resume(theirs.received)
        except ProtocolError as error:
            self._end(EpochEnded(str(error)))
            return
        begun, self._begun = self._begun, True
        self._flush()
        if not begun:
            self._opened(theirs)

    def _take(self, frame: Frame) -> None:
        before = self.session.acknowledged
        try:
            new = self.session.receive(frame.number, frame.acknowledged)
        except ProtocolError as error:
            self._end(EpochEnded(str(error)))
            return
        if self.session.acknowledged != before:
            self._further = True
        if new:
            assert isinstance(frame.body, StepResult)
            self._further = True
            self.results.append(frame.body)
            if self.session.due:
                self._acknowledge()
            elif not self._acking:
                self._acking = True
                self._owner.after(ACK_SECONDS, self._attend)
            self._result()

    def _attend(self) -> None:
        self._acking = False
        if not self._closed and self.session.owed:
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._stream is not None:
            self._stream.send(0, Frame(0, self.session.acknowledge(), None))

    def _flush(self) -> None:
        while self._stream is not None and self._stream.open and self._greeted:
            said = self.session.next()
            if said is None:
                break
            self._stream.send(0, Frame(*said))
