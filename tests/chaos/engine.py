"""An engine that can be harmed: the real one, with a fault patched into its own process.

`python tests/chaos/engine.py FOLDER`, started by an agent in place of `python -m cluster.engine`.
In the folder it looks for an order for its rank, `order-RANK.json` (fault.py); it writes
`fired-RANK.json` with its process id and the time on the monotonic clock when it obeys.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TENFOLD = 9.0
"""Of the time a launch takes, added to it."""
LONGEST_SLEEP = 3.0
COLLECTIVE = 4
"""The one of a launch that `Place.IN` means: with those before it done, and more to come."""
PEER_SECONDS = 0.05
"""Until the other rank waits in it for certain: it has less than that to compute."""


class Saboteur:
    """Counts the launches of one engine, and does to it what the order says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rank = 0
        self.port = 0
        """Of the engine's endpoint, once it is ready."""
        self._fault: Any = None
        self._phase = ""
        self._launches = 0
        self._collectives = 0
        self._active = False
        """This launch is the one, or is slow."""
        self._fired = False
        self._began = self._slept = 0.0
        self._took: list[float] = []
        """Seconds of the slow launches of its phase, sleep left out."""

    @property
    def order(self) -> Path:
        """Where an order for this rank lies."""
        return self._folder / f"order-{self.rank}.json"

    def begin(self, phase: str) -> None:
        """A launch of this phase is about to be built."""
        self._collectives = 0
        self._active = False
        if not self.order.exists():
            self._fault = None
            return
        if self._fault is None:
            from tests.chaos.fault import Fault

            self._fault = Fault.read(self.order.read_text())
            self._launches, self._fired, self._took = 0, False, []
        self._phase = phase
        self._launches += phase == self._fault.phase
        due = self._launches - self._fault.count
        self._active = phase == self._fault.phase and due >= 0
        if self._fault.kind != "slow":
            self._active = self._active and due == 0
        self._began, self._slept = time.monotonic(), 0.0
        if self._active and self._fault.place == "before":
            _synchronize()
            self._do()

    def collective(self, operand: Any) -> None:
        """A collective of the launch is about to be issued with this operand."""
        self._collectives += 1
        if self._active and self._fault.place == "in" and self._collectives == COLLECTIVE:
            import mlx.core as mx

            mx.eval(operand)  # and so the collectives before, which the other rank does too
            if self._fault.kind != "slow":
                self._sleep(PEER_SECONDS)
            self._do()

    def end(self) -> None:
        """The launch has been handed to MLX."""
        if not self._active:
            return
        _synchronize()
        if self._fault.kind == "slow":
            self._took.append(time.monotonic() - self._began - self._slept)
        # A rank that is alone issues no collectives.
        alone = self._fault.place == "in" and self._collectives < COLLECTIVE
        if self._fault.place == "after" or alone:
            self._do()

    def _sleep(self, seconds: float) -> None:
        self._slept += seconds
        time.sleep(seconds)

    def _do(self) -> None:
        """The fault itself."""
        kind = self._fault.kind
        if kind == "slow":
            if self._took:
                self._tell()
                self._sleep(min(LONGEST_SLEEP, TENFOLD * median(self._took)))
            return
        self.order.unlink(missing_ok=True)
        self._tell()
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind in ("stop", "pause"):
            os.kill(os.getpid(), signal.SIGSTOP)
        elif kind == "cut":
            _cut(self.port)
        elif kind == "raise":
            raise RuntimeError("a fault was ordered")

    def _tell(self) -> None:
        if self._fired:
            return
        self._fired = True
        fired = {"pid": os.getpid(), "at": time.monotonic()}
        half = self._folder / f".fired-{self.rank}"
        half.write_text(json.dumps(fired))
        half.rename(self._folder / f"fired-{self.rank}.json")


def _synchronize() -> None:
    import mlx.core as mx

    mx.synchronize()


def _cut(port: int) -> None:
    """Shut down every TCP connection that somebody has opened to this process's `port`."""
    import psutil

    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.laddr.port == port:
            with socket.socket(fileno=os.dup(connection.fd)) as sock:
                sock.shutdown(socket.SHUT_RDWR)


def patch(saboteur: Saboteur) -> None:
    """Have the launches of this process's engine counted."""
    import mlx.core as mx

    from cluster.core.cluster import LaunchSpec
    from cluster.engine import process, stdio
    from cluster.engine.executor import Executor

    form_group = process.form_group

    def formed(spec: LaunchSpec) -> Any:
        saboteur.rank = spec.plan.rank
        return form_group(spec)

    process.form_group = formed
    ready = stdio.Events.ready

    def said_ready(self: stdio.Events, endpoint: str, seconds: float) -> None:
        saboteur.port = int(endpoint.rpartition(":")[2])
        ready(self, endpoint, seconds)

    stdio.Events.ready = said_ready
    for name in ("all_sum", "all_gather"):
        setattr(mx.distributed, name, _watched(getattr(mx.distributed, name), saboteur))
    for name, phase in (
        ("_forward", "decode"),
        ("_prefill", "prefill"),
        ("_prefill_all", "prefill"),
    ):
        setattr(Executor, name, _begun(getattr(Executor, name), saboteur, phase))
    hand_over = Executor._hand_over

    def handed_over(self: Executor, *arguments: Any) -> None:
        hand_over(self, *arguments)
        saboteur.end()

    Executor._hand_over = handed_over


def _watched(collective: Callable[..., Any], saboteur: Saboteur) -> Callable[..., Any]:
    def watched(operand: Any, *arguments: Any, **options: Any) -> Any:
        saboteur.collective(operand)
        return collective(operand, *arguments, **options)

    return watched


def _begun(build: Callable[..., Any], saboteur: Saboteur, phase: str) -> Callable[..., Any]:
    def begun(self: Any, *arguments: Any) -> Any:
        saboteur.begin(phase)
        return build(self, *arguments)

    return begun


def main() -> None:
    """Patch, and be an engine; does not return."""
    sys.path.insert(0, str(ROOT))
    patch(Saboteur(Path(sys.argv[1])))
    from cluster.engine.__main__ import main

    main()


if __name__ == "__main__":
    main()
