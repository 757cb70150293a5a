"""The node agent that a `serve` which died has left on this machine, with its engines.

It lives on for the orphan grace. A note in a file, written when it was started, tells the next
`serve` on the same port where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from cluster.core.errors import BadConfiguration
from cluster.trust import files

FOLDER = Path("~/.local/state/tandem/agents")
LOOK_SECONDS = 0.25
STOP_SECONDS = 4.0


class Note(BaseModel):
    """What is noted of an agent; it is another process when `created` differs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    host: str
    identity: str
    pid: int
    created: float
    """When the process was, as the system has it."""


@dataclass(frozen=True, slots=True)
class LeftAgent:
    """An agent process that is not our child."""

    note: Note

    async def wait(self) -> int:
        """Return when it is gone; how it ended can't be known."""
        while _runs(self.note):  # noqa: ASYNC110 - nobody tells of a process that is not ours
            await asyncio.sleep(LOOK_SECONDS)
        return 0

    async def stop(self) -> None:
        """End it, with its engines."""
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.note.pid).terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.wait()
        except TimeoutError:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self.note.pid).kill()


def find(port: int, host: str, identity: Path | None) -> LeftAgent | None:
    """The agent that was noted for the server on `port`, if it still runs and is the same as
    would be started now."""
    try:
        note = files.read(_file(port), Note, "note of an agent")
    except BadConfiguration:
        return None
    same = note is not None and (note.host, note.identity) == (host, str(identity or ""))
    return LeftAgent(note) if note is not None and same and _runs(note) else None


def write(port: int, address: str, host: str, identity: Path | None, pid: int) -> None:
    """Note an agent. One that can't be noted is only not found again."""
    with contextlib.suppress(BadConfiguration, psutil.NoSuchProcess, OSError):
        path = _file(port)
        path.parent.mkdir(parents=True, exist_ok=True)
        created = psutil.Process(pid).create_time()
        note = Note(
            address=address, host=host, identity=str(identity or ""), pid=pid, created=created
        )
        files.replace(path, note, "note of an agent")


def remove(port: int) -> None:
    """It was ended in order."""
    with contextlib.suppress(OSError):
        _file(port).unlink(missing_ok=True)


def _file(port: int) -> Path:
    return FOLDER.expanduser() / f"{port}.json"


def _runs(note: Note) -> bool:
    try:
        process = psutil.Process(note.pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return not ended and abs(process.create_time() - note.created) < 0.01
    except psutil.Error:
        return False
