"""A server whose streams outlive their clients, and what tests of them ask of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from starlette.types import Scope

from api.access import AccessPolicy
from api.app import create_app
from api.caller import Caller
from api.service import Service
from api.streams import StreamLimits, Streams
from cluster.core.clock import ManualClock
from tests.conftest import wait_for
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question, running

BEAT = 0.03
"""Seconds between signs of life."""

LIMITS = StreamLimits(buffer_bytes=1 << 16, streams=50)
HELLO = ["Hel", "lo, ", "日本", " world"]
CONV, KEY = "X-Conversation-Id", "Idempotency-Key"


class ByHeader(AccessPolicy):
    """Stands for API keys: the owner is what a header says, and how much they may."""

    def admit(self, scope: Scope) -> Caller:
        headers = dict(scope["headers"])
        owner = headers.get(b"x-owner", b"").decode()
        most = headers.get(b"x-concurrency")
        return Caller(owner, owner, owner, None if most is None else int(most))


class Server:
    """One that runs, and what the test needs of it."""

    def __init__(self, service: Service, clock: ManualClock, http: httpx.AsyncClient) -> None:
        self.streams: Streams = service.streams
        self.clock = clock
        self.http = http

    def asking(self, conversation: str | None = None, **headers: str) -> dict[str, str]:
        named = {} if conversation is None else {CONV: conversation}
        return named | {name.replace("_", "-"): value for name, value in headers.items()}

    async def ask(
        self, conversation: str | None = None, /, *, body: Any = None, **headers: str
    ) -> httpx.Response:
        return await self.http.post(
            CHAT, json=body or question(stream=True), headers=self.asking(conversation, **headers)
        )

    def asked(self, conversation: str | None = None, **headers: str) -> Any:
        return self.http.stream(
            "POST", CHAT, json=question(stream=True), headers=self.asking(conversation, **headers)
        )

    async def get(self, conversation: str, *, at: int = 0, **headers: str) -> httpx.Response:
        return await self.http.get(
            f"/v1/stream/{conversation}?from={at}", headers=self.asking(**headers)
        )

    async def begin(self, gate: Gate, conversation: str | None = None, **headers: str) -> None:
        """Ask, and leave at the gate."""
        async with self.asked(conversation, **headers) as response:
            assert response.status_code == 200
            await wait_for(lambda: gate.reached)
        await wait_for(lambda: all(not s.followers for s in self.streams._all))

    @property
    def nothing_left(self) -> bool:
        streams = self.streams
        return not (streams._all or streams._by_conversation or streams._by_key)


@asynccontextmanager
async def served(
    coordinator: FakeCoordinator, limits: StreamLimits = LIMITS, *, beat: float | None = None
) -> AsyncIterator[Server]:
    """With a clock that stands still, unless signs of life are wanted every `beat` seconds."""
    clock = ManualClock(100.0)
    times = {} if beat is None else {"sign_of_life": beat}
    app = create_app(
        coordinator, access=ByHeader(), streams=limits, clock=None if beat else clock, **times
    )
    async with running(app) as port:
        url = f"http://127.0.0.1:{port}"
        connections = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, timeout=10, limits=connections) as http:
            yield Server(app.state.service, clock, http)


async def next_of(parts: AsyncIterator[bytes], mark: bytes) -> bytes:
    """Read on until `mark` has come."""
    got = b""
    with anyio.fail_after(5):
        while mark not in got:
            got += await anext(parts)
    return got


def is_closed(coordinator: FakeCoordinator, number: int) -> bool:
    return coordinator.generations[number].closed == 1


def text_of(stream: bytes) -> str:
    events = re.findall(rb"data: (\{.*\})\n", stream)
    choices = [choice for event in events for choice in json.loads(event).get("choices", [])]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def error_of(stream: bytes) -> str:
    """The code of the error that a stream ends with."""
    last = re.findall(rb"data: (\{.*\})\n", stream)[-1]
    assert b"[DONE]" not in stream
    return str(json.loads(last)["error"]["code"])
