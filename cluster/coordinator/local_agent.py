"""This machine's own node agent, kept running as a child process."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from cluster.coordinator import left_agent
from cluster.coordinator.left_agent import LeftAgent
from cluster.core.errors import LaunchFailed
from cluster.wire.security import split_address
from cluster.wire.status import by_name

START_SECONDS = 20.0
STOP_SECONDS = 4.0

log = structlog.get_logger()


class LocalAgent:
    """One agent process at a time, always at the same address.

    It holds the read end of a pipe whose other end is ours: should we die without a word, it
    sees the end of the file, waits `orphan_grace` seconds and ends its engines and itself. The
    next server on the same HTTP port that comes before takes it over.
    """

    def __init__(self, port: int, host: str, identity: Path | None, orphan_grace: float) -> None:
        self._port = port
        self._host = host
        self._identity = identity
        self._orphan_grace = orphan_grace
        self.address = ""
        """"host:port", once it has been started."""

    @classmethod
    @asynccontextmanager
    async def run(
        cls, port: int, host: str, identity: Path | None, orphan_grace: float
    ) -> AsyncIterator[str]:
        """Keep an agent running on `host`, with the identity in that file, and yield its address;
        for the server on HTTP port `port`.

        Raises LaunchFailed, or what the agent says is wrong, when it can't be started (again);
        that may come wrapped in an ExceptionGroup.
        """
        agent = cls(port, host, identity, orphan_grace)
        left = await asyncio.to_thread(left_agent.find, port, host, identity)
        if left is not None:
            agent.address = left.note.address
        process = left or await agent._start(port=0)
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(agent._keep(process), name="local agent")
            try:
                yield agent.address
            finally:
                keeping.cancel()

    async def _keep(self, process: Process | LeftAgent) -> None:
        """Start another whenever one ends; on being cancelled, end the last."""
        try:
            while True:
                code = await process.wait()
                log.warning("this machine's node agent ended; starting another", code=code)
                process = await self._start(split_address(self.address)[1])
        finally:
            await (process.stop() if isinstance(process, LeftAgent) else _stop(process))
            left_agent.remove(self._port)

    async def _start(self, port: int) -> Process:
        options = {
            "--host": self._host,
            "--port": str(port),
            "--orphan-grace": str(self._orphan_grace),
        }
        if self._identity is not None:
            options["--identity"] = str(self._identity)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "cluster.node", "--parent-pipe"),
            *(word for option in options.items() for word in option),
            stdin=PIPE,
            stdout=PIPE,
        )
        try:
            self.address = await _listening(process)
        except BaseException:
            await _stop(process)
            raise
        left_agent.write(self._port, self.address, self._host, self._identity, process.pid)
        return process


async def _listening(process: Process) -> str:
    """The address in the one line that the agent writes once it listens."""
    assert process.stdout is not None  # asked for above
    try:
        async with asyncio.timeout(START_SECONDS):
            event = json.loads(await process.stdout.readline())
    except (TimeoutError, ValueError) as error:
        raise LaunchFailed("this machine's node agent did not start") from error
    if "address" in event:
        return str(event["address"])
    message = str(event.get("message", "it gave no reason"))
    raise by_name(str(event.get("error")), message) or LaunchFailed(
        f"this machine's node agent did not start: {message}"
    )


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
