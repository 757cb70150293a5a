"""The epochs of one group, with the product's Coordinator, Epochs and Share, and what runner.py
and drive.py do around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.drive import WATCH_SECONDS
from cluster.coordinator.share import Share
from cluster.core.errors import EpochEnded, NotAuthorized, NotReady, ProtocolError, SetupError
from cluster.membership.epochs import Epochs
from tests.simulation.formation import Formation
from tests.simulation.line import LOOK_SECONDS

if TYPE_CHECKING:
    from tests.simulation.head import Head


class Runner:
    """Owns the epochs of one coordinator."""

    def __init__(self, head: Head, coordinator: Coordinator, share: Share) -> None:
        self.head = head
        self.name = f"{head.name}.{share.replica}" if share.replicas > 1 else head.name
        self.coordinator = coordinator
        self.share = share
        self.epochs: Epochs[int] = Epochs(share, len, numbers=share.all.numbers)
        self.forming: Formation | None = None
        """The epoch that runs, or is about to."""
        self.waits = False
        """For the end of a pause, or a machine that comes."""
        self._turn = 0
        self._seen = 0
        """Changes of machines, when the latest attempt began."""
        head.every(WATCH_SECONDS, self._watch)
        head.every(LOOK_SECONDS, self._look_after_lines)

    def say(self, what: str) -> None:
        self.head.world.say(self.name, what)

    def form(self) -> None:
        """The next epoch."""
        self.waits, self._seen = False, self.head.changes
        try:
            members, _ = self.epochs.next(self.head.world.now())
        except SetupError as error:
            self.failed(error)
            return
        self.share.take(members, "tensor", 0)  # type: ignore[arg-type]
        self.forming = Formation(self, members)
        self.forming.start()

    def ended(self, formation: Formation, error: EpochEnded | ProtocolError) -> None:
        """Its engines are gone, or can't be asked."""
        head = self.head
        try:
            suspicious = self.epochs.ended(error)
        except NotAuthorized as replaced:
            self.say(f"gives up: {replaced}")
            head.die()
            return
        if not suspicious:
            self._settled()
            return
        waiting = {member.id: member for member in formation.members}
        answers: dict[str, bool] = {}

        def told(name: str, incarnation: int | None) -> None:
            answers[name] = incarnation == waiting[name].incarnation
            if len(answers) == len(waiting):
                if all(answers.values()):
                    head.machine.checks.blamed(self, formation, error)
                    self.coordinator.live.blame()
                self._settled()

        for name in waiting:
            head.describe(head.nodes[name], lambda told_=None, name=name: told(name, told_))

    def failed(self, error: SetupError) -> None:
        """No group could be formed."""
        try:
            self.epochs.failed(error, others=self.share.others_ran)
        except SetupError:
            self.say(f"gives up: {error}")
            if self.head.started:  # then Fleet unloads the model
                for group in self.head.served.groups:
                    group.live.fail(NotReady(f"could not be loaded: {error}", retry_after=5))
            self.head.die()
            return
        self.coordinator.waiting_for(str(error))
        self._settled()

    def _settled(self) -> None:
        """It is known who is to blame; another attempt comes after a pause."""
        head = self.head
        self.forming = None
        self.coordinator.settled = True
        head.move()
        self.waits = True
        self._turn += 1
        turn = self._turn

        def on() -> None:
            if self.waits and self._turn == turn:
                self.form()

        changed = head.changes != self._seen
        head.after(0.001 if changed else max(self.epochs.pause, 0.001), on)

    # The epoch that runs

    def pump(self) -> None:
        """Send what is planned."""
        formation, coordinator = self.forming, self.coordinator
        while self.head.alive and formation is not None and coordinator.scheduler is not None:
            _, step = coordinator.next()
            if step is None:
                break
            self.head.machine.checks.sent(self, step)
            self.say(f"sends {step.epoch}.{step.seq}")
            formation.send(step)

    def _watch(self) -> None:
        formation, coordinator = self.forming, self.coordinator
        running = coordinator.scheduler is not None
        try:
            coordinator.look()
            if running:
                self.epochs.look(
                    self.head.world.now(),
                    silent=coordinator.silent_for(),
                    idle=not coordinator.live.journal,
                )
        except EpochEnded as error:
            if formation is not None:
                formation.over(error)
            return
        self.head.machine.checks.look(self)
        self.pump()

    def _look_after_lines(self) -> None:
        if self.forming is not None:
            for line in self.forming.lines:
                line.look()
