"""What an engine shares with the agent that started it: stdin, stdout, and its death.

One line of JSON comes in (the LaunchSpec); lines of JSON go out (loading, ready, failed). The
end of stdin means that the agent is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any, NoReturn

from cluster.core.cluster import LaunchSpec, ShardPlan
from cluster.core.errors import BadConfiguration

_PR_SET_PDEATHSIG = 1


class Events:
    """Lines of JSON for the agent. Whatever else prints to stdout goes to stderr instead."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def loading(self, what: str, fraction: float) -> None:
        """Progress; `what` as in `cluster.Loading`, `fraction` from 0 to 1."""
        self._write({"event": "loading", "what": what, "fraction": round(fraction, 4)})

    def ready(self, endpoint: str, seconds: float) -> None:
        """Steps are taken at `endpoint`; `seconds` since the process began."""
        self._write({"event": "ready", "endpoint": endpoint, "seconds": round(seconds, 3)})

    def failed(self, error: BaseException) -> None:
        """The last event: why the process ends."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = " ".join(lines) or type(error).__name__
        self._write({"event": "failed", "error": type(error).__name__, "message": message})

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                exit_now(1)


def die_with_parent() -> None:
    """Follow the parent into death, on Linux by the kernel's hand.

    End-of-file on stdin says the same everywhere, but may go unseen while native code holds the
    GIL. A terminal's Ctrl-C is for the agent to act on; SIGTERM kills at once, as there is
    nothing to save and a Python handler might never get to run.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def read_spec() -> tuple[LaunchSpec, str, str]:
    """The LaunchSpec, the address to bind to, and the path of the identity file, which is empty
    where there is none, from the one line on stdin.

    From then on the end of stdin ends this process. Raises BadConfiguration.
    """
    line = sys.stdin.buffer.readline()
    if not line:
        exit_now(1)
    try:
        fields = json.loads(line)
        host = str(fields.pop("host"))
        identity = str(fields.pop("identity", ""))
        plan = plan_of(fields.pop("plan"))
        ring = tuple(fields.pop("ring", ()))
        spec = LaunchSpec(plan=plan, ring=ring, **fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadConfiguration(f"the launch line can't be read: {error!r}") from error
    threading.Thread(target=exit_at_end, name="stdin", daemon=True).start()
    return spec, host, identity


def plan_of(fields: dict[str, Any]) -> ShardPlan:
    """The plan that was written as JSON, which has no tuples. Raises TypeError."""
    return ShardPlan(**{**fields, "layers": tuple(fields.get("layers", ()))})


def exit_now(code: int) -> NoReturn:
    """End the process without the interpreter's clean-up, in which MLX sometimes aborts."""
    sys.stderr.flush()
    os._exit(code)


def exit_at_end() -> None:
    """Read standard input to its end, which means that the agent is gone; does not return."""
    while sys.stdin.buffer.read(4096):
        pass
    exit_now(1)
