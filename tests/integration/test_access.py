"""Keys, hosts, origins and limits, over real sockets."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import structlog

from api.access import AccessPolicy
from api.body import read_body
from api.keys import KeyRing, add_key, digest_of
from api.server import HEADER_BYTES, PromptProtocol
from cluster.core.clock import ManualClock
from tests.conftest import wait_for
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question, serving

HERE = frozenset({"localhost"})
PAGE = "https://chat.example"


@asynccontextmanager
async def client(
    coordinator: FakeCoordinator, access: AccessPolicy, key: str = "", **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with (
        serving(coordinator, access=access, **options) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False
        ) as http,
    ):
        yield http


class TestKeys:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "keys.json"

    @pytest.fixture
    def key(self, path: Path) -> str:
        return add_key(path, "laptop")

    @pytest.fixture
    def policy(self, path: Path, key: str) -> AccessPolicy:
        return AccessPolicy(keys=KeyRing(path, ManualClock()), hosts=HERE)

    async def test_everything_but_health_needs_one(
        self, coordinator: FakeCoordinator, policy: AccessPolicy, key: str
    ) -> None:
        async with client(coordinator, policy) as http:
            assert (await http.get("/health")).status_code == 200
            for path in ("/v1/models", "/cluster", "/metrics", "/docs", "/nothing"):
                refused = await http.get(path)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert refused.headers["x-request-id"].startswith("req_")
                assert refused.json()["error"]["code"] == "invalid_api_key"
            assert (await http.post(CHAT, json=question())).status_code == 401
            assert coordinator.generations == []
            for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                answer = await http.post(CHAT, json=question(), headers=headers)
                assert answer.status_code == 200

    async def test_a_refusal_has_the_shape_of_its_dialect(
        self, coordinator: FakeCoordinator, policy: AccessPolicy
    ) -> None:
        async with client(coordinator, policy) as http:
            answer = await http.post("/v1/messages", json={})
            body = answer.json()
            assert body["error"]["type"] == "authentication_error"
            assert body["request_id"] == answer.headers["x-request-id"]
            assert isinstance((await http.post("/api/chat", json={})).json()["error"], str)

    async def test_prefixes_are_each_key_s_own(
        self, coordinator: FakeCoordinator, policy: AccessPolicy, key: str
    ) -> None:
        async with client(coordinator, policy, key) as http:
            await http.post(CHAT, json=question())
        assert coordinator.order.scope == digest_of(key.encode())[:32]

    async def test_a_body_that_is_refused_does_not_stop_the_connection(
        self, coordinator: FakeCoordinator, policy: AccessPolicy, key: str
    ) -> None:
        async with client(coordinator, policy) as http:
            for _ in range(2):
                big = await http.post(CHAT, content=b"x" * 1_000_000)
                assert big.status_code == 401
            assert (await http.get("/health")).status_code == 200

    async def test_so_many_at_once(self, coordinator: FakeCoordinator, path: Path) -> None:
        key = add_key(path, "ci", concurrency=1)
        policy = AccessPolicy(keys=KeyRing(path, ManualClock()))
        gate = Gate()
        coordinator.script = ["Hel", gate, "lo"]
        async with client(coordinator, policy, key) as http:
            async with http.stream("POST", CHAT, json=question(stream=True)) as answer:
                assert answer.status_code == 200
                refused = await http.post(CHAT, json=question())
                assert refused.status_code == 429
                assert refused.headers["retry-after"] == "1"
                assert refused.json()["error"]["code"] == "rate_limit"
                assert (await http.get("/v1/models")).status_code == 200
                gate.open()
                assert "[DONE]" in (await answer.aread()).decode()
            assert (await http.post(CHAT, json=question())).status_code == 200
            # A client that leaves gives its place back too.
            coordinator.script = ["Hel", Gate(), "lo"]
            async with http.stream("POST", CHAT, json=question(stream=True)):
                pass
            await wait_for(lambda: coordinator.generations[-1].closed)
            coordinator.script = ["Hello"]
            assert (await http.post(CHAT, json=question())).status_code == 200

    async def test_so_many_in_a_minute(self, coordinator: FakeCoordinator, path: Path) -> None:
        key = add_key(path, "ci", per_minute=2)
        policy = AccessPolicy(keys=KeyRing(path, ManualClock()))
        async with client(coordinator, policy, key) as http:
            answers = [await http.post(CHAT, json=question()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 25 <= int(answers[2].headers["retry-after"]) <= 30


class TestPages:
    async def test_another_s_name_is_refused(self, coordinator: FakeCoordinator) -> None:
        async with client(coordinator, AccessPolicy(hosts=HERE)) as http:
            headers = {"host": "evil.example"}
            refused = await http.post(CHAT, json=question(), headers=headers)
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "host_not_allowed"
        assert coordinator.generations == []

    async def test_a_page_can_not_make_a_keyless_server_work(
        self, coordinator: FakeCoordinator
    ) -> None:
        async with client(coordinator, AccessPolicy(hosts=HERE)) as http:
            for origin in (PAGE, "null"):
                simple = {"origin": origin, "content-type": "text/plain"}
                body = json.dumps(question())
                assert (await http.post(CHAT, content=body, headers=simple)).status_code == 403
                ask = {"origin": origin, "access-control-request-method": "POST"}
                preflight = await http.options(CHAT, headers=ask)
                assert preflight.status_code == 403
                assert "access-control-allow-origin" not in preflight.headers
            own = {"origin": str(http.base_url).rstrip("/")}
            assert (await http.post(CHAT, json=question(), headers=own)).status_code == 200
        assert len(coordinator.generations) == 1

    async def test_a_page_that_is_listed(
        self, coordinator: FakeCoordinator, tmp_path: Path
    ) -> None:
        key = add_key(tmp_path / "k.json", "page")
        ring = KeyRing(tmp_path / "k.json", ManualClock())
        policy = AccessPolicy(keys=ring, hosts=HERE, origins=(PAGE,))
        async with client(coordinator, policy) as http:
            preflight = await http.options(
                CHAT,
                headers={
                    "origin": PAGE,
                    "access-control-request-method": "POST",
                    "access-control-request-headers": "authorization,content-type,x-stainless-os",
                },
            )
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == PAGE
            assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
            refused = await http.post(CHAT, json=question(), headers={"origin": PAGE})
            assert refused.status_code == 401
            assert refused.headers["access-control-allow-origin"] == PAGE
            keyed = {"origin": PAGE, "authorization": f"Bearer {key}"}
            answer = await http.post(CHAT, json=question(), headers=keyed)
            assert answer.status_code == 200
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
            other = {**keyed, "origin": "https://other.example"}
            refused = await http.post(CHAT, json=question(), headers=other)
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers

    async def test_http_1_0_without_a_host(self, coordinator: FakeCoordinator) -> None:
        async with serving(coordinator, access=AccessPolicy(hosts=HERE)) as port:
            assert (await raw(port, b"GET /health HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def raw(port: int, data: bytes, deadline: float = 5.0) -> bytes:
    """All that comes back until the server closes the connection."""
    received = b""
    with anyio.fail_after(deadline):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(data)
            try:
                while True:
                    received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return received


class TestBounds:
    async def test_requests_under_way(self, coordinator: FakeCoordinator) -> None:
        gate = Gate()
        coordinator.script = [gate, "Hello"]
        async with client(coordinator, AccessPolicy(), most_requests=2) as http:
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(lambda: http.post(CHAT, json=question()))
                await wait_for(lambda: len(coordinator.generations) == 2)
                full = await http.post(CHAT, json=question())
                assert (full.status_code, full.headers["retry-after"]) == (503, "1")
                assert full.json()["error"]["code"] == "busy"
                assert (await http.get("/health")).status_code == 200
                gate.open()
            assert (await http.get("/v1/models")).status_code == 200

    async def test_headers_that_are_too_large(self, coordinator: FakeCoordinator) -> None:
        async with serving(coordinator) as port:
            field = b"X: " + b"x" * HEADER_BYTES
            answer = await raw(port, b"GET /health HTTP/1.1\r\nHost: x\r\n" + field)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large")
            assert "65536 bytes" in json.loads(body)["error"]["message"]
            assert (await raw(port, b"\x00\r\n\r\n")).startswith(b"HTTP/1.1 400")

    async def test_headers_that_do_not_come(
        self, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PromptProtocol, "header_seconds", 0.05)
        async with serving(coordinator) as port:
            assert await raw(port, b"") == b""
            answer = await raw(port, b"GET /health HTTP/1.1\r\nHo")
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"the headers took more than" in answer
            whole = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
            answer = await raw(port, whole + whole[:20])
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"HTTP/1.1 408" in answer

    async def test_a_long_answer_is_no_idle_connection(
        self, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PromptProtocol, "header_seconds", 0.05)
        gate = Gate()
        coordinator.script = ["Hel", gate, "lo"]
        async with (
            client(coordinator, AccessPolicy(), sign_of_life=0.05) as http,
            http.stream("POST", CHAT, json=question(stream=True)) as answer,
        ):
            pieces = answer.aiter_text()
            seen = ""
            with anyio.fail_after(5):
                while seen.count("\n:") < 3:  # three times as long as headers may take
                    seen += await anext(pieces)
                gate.open()
                async for piece in pieces:
                    seen += piece
        assert "[DONE]" in seen

    async def test_a_body_that_does_not_come(
        self, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PromptProtocol, "header_seconds", 0.1)
        monkeypatch.setitem(read_body.__kwdefaults__, "silent_seconds", 0.05)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode()
        async with serving(coordinator) as port:
            answer = await raw(port, head)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"after 1 bytes" in answer
        assert coordinator.generations == []

    async def test_one_that_reads_nothing_keeps_no_other_waiting(
        self, coordinator: FakeCoordinator
    ) -> None:
        coordinator.script = ["x" * 100_000 for _ in range(200)]
        async with (
            client(coordinator, AccessPolicy()) as http,
            http.stream("POST", CHAT, json=question(stream=True)),
        ):
            coordinator.script = ["Hello"]
            with anyio.fail_after(5):
                answer = await http.post(CHAT, json=question())
            assert answer.status_code == 200
            assert coordinator.generations[0].finish is None


class TestLog:
    async def test_a_line_for_each_request_without_what_was_asked(
        self, coordinator: FakeCoordinator, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = add_key(tmp_path / "k.json", "laptop")
        policy = AccessPolicy(keys=KeyRing(tmp_path / "k.json", ManualClock()))
        merge = [structlog.contextvars.merge_contextvars]
        with structlog.testing.capture_logs(processors=merge) as lines:
            async with client(coordinator, policy, key) as http:
                secret = [{"role": "user", "content": "the-secret"}]
                answer = await http.post(f"{CHAT}?x=the-secret", json={"messages": secret})
                refused = await http.get("/v1/%0amodels", headers={"authorization": "Bearer no"})
        seen = [line for line in lines if line["event"] == "request"]
        ids = [answer.headers["x-request-id"], refused.headers["x-request-id"]]
        assert [line["request_id"] for line in seen] == ids
        assert [line["status"] for line in seen] == [200, 401]
        assert [line["caller"] for line in seen] == ["laptop", None]
        assert [line["path"] for line in seen] == [CHAT, "/v1/%0amodels"]
        assert seen[0]["method"] == "POST"
        assert 0 <= seen[0]["seconds"] < 10
        assert {line["request_id"] for line in lines} == set(ids)
        everything = repr(lines) + caplog.text
        assert "the-secret" not in everything
        assert key not in everything
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    async def test_what_was_asked_where_that_is_wanted(self, coordinator: FakeCoordinator) -> None:
        with structlog.testing.capture_logs() as lines:
            async with client(coordinator, AccessPolicy(), log_prompts=True) as http:
                await http.post(CHAT, content=b"x" * 100_000)
                await http.post(CHAT, json=question())
        bodies = [line["text"] for line in lines if line["event"] == "body"]
        assert bodies[0] == "x" * 16384
        assert "Say hello" in bodies[1]
