"""A number that grows with every start of an agent on this machine."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

FILE = Path("~/.local/state/tandem/incarnation")

_MOST = 1 << 62
"""A file that holds more than this is not ours."""


def next_incarnation(file: Path = FILE) -> int:
    """The time in ns, but more than any that `file` has seen: clocks are set back at times.

    Agents that start together get different ones. Where the file can't be read, written or
    locked at once, the time alone has to do.
    """
    now = time.time_ns()
    try:
        file = file.expanduser()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return now
    with os.fdopen(handle, "r+b", buffering=0) as state:
        try:
            fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
            number = max(now, _parse(state.read(64)) + 1)
            state.seek(0)
            state.truncate()
            state.write(b"%d\n" % number)
        except OSError:
            return now
    return number


def _parse(data: bytes) -> int:
    """The number in the file; 0 when it holds something else."""
    text = data.strip()
    return int(text) if text.isdigit() and int(text) < _MOST else 0
