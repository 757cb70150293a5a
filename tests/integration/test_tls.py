"""The API over https: answers, hang-ups, and certificates of no use."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from anyio import to_thread

from api.tls import load_tls
from cluster.cli.server import connect, get
from cluster.core.errors import BadConfiguration, SetupError
from cluster.core.request import Finish
from cluster.core.view import Health
from cluster.text.tokenizer import Tokenizer
from tests.conftest import wait_for
from tests.integration.certificates import lock, make_certificate
from tests.unit.api.fake import CHAT, FakeCoordinator, Gate, question, serving

Pems = tuple[Path, Path]


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Pems:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def coordinator(tokenizer: Tokenizer) -> FakeCoordinator:
    coordinator = FakeCoordinator(tokenizer)
    coordinator.healthy = Health(False, "so that nothing is written: no write may notice")
    return coordinator


@pytest.fixture
async def port(coordinator: FakeCoordinator, pems: Pems) -> AsyncIterator[int]:
    async with serving(coordinator, tls=load_tls(*pems)) as port:
        yield port


def trusting(pems: Pems) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pems[0])
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as from Python 3.13 on
    return context


@asynccontextmanager
async def posted(
    port: int, pems: Pems, **fields: object
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]]:
    """A chat completion that was asked for, and the socket below its encryption."""
    body = json.dumps(question(**fields)).encode()
    plain = socket.create_connection(("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(
        sock=plain, ssl=trusting(pems), server_hostname="127.0.0.1"
    )
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        yield reader, writer, plain
    finally:
        writer.transport.abort()


async def test_whole_and_streamed_answers(
    port: int, pems: Pems, coordinator: FakeCoordinator
) -> None:
    url = f"https://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, verify=trusting(pems), trust_env=False) as http:
        whole = await http.post(CHAT, json=question())
        assert whole.json()["choices"][0]["message"]["content"] == "Hello, world"
        streamed = await http.post(CHAT, json=question(stream=True))
        assert streamed.text.endswith("data: [DONE]\n\n")


def close(writer: asyncio.StreamWriter, plain: socket.socket) -> None:
    """With TLS's own word of goodbye."""
    writer.close()


def half_close(writer: asyncio.StreamWriter, plain: socket.socket) -> None:
    """TCP's end only."""
    plain.shutdown(socket.SHUT_WR)


def reset(writer: asyncio.StreamWriter, plain: socket.socket) -> None:
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("hang_up", [close, half_close, reset])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_cancels_at_once_and_quietly(
    port: int,
    pems: Pems,
    coordinator: FakeCoordinator,
    caplog: pytest.LogCaptureFixture,
    hang_up: object,
    stream: bool,
) -> None:
    assert callable(hang_up)
    gate = Gate()
    coordinator.script = ["Hello", gate]
    async with posted(port, pems, stream=stream) as (reader, writer, plain):
        await wait_for(lambda: gate.reached)
        if stream:
            await asyncio.wait_for(reader.readuntil(b"Hello"), 5)
        hang_up(writer, plain)
        await wait_for(lambda: coordinator.generations[0].closed == 1, 1.0)
        assert coordinator.generations[0].finish is Finish.CANCELLED
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("hang_up", [close, half_close])
async def test_a_hang_up_of_one_that_reads_nothing(
    port: int, pems: Pems, coordinator: FakeCoordinator, hang_up: object
) -> None:
    assert callable(hang_up)
    coordinator.script = ["x" * 100_000 for _ in range(200)]
    async with posted(port, pems, stream=True) as (_, writer, plain):
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        await wait_for(lambda: coordinator.generations)
        hang_up(writer, plain)
        await wait_for(lambda: coordinator.generations[0].closed == 1, 2.0)
        assert coordinator.generations[0].finish is Finish.CANCELLED


async def test_requests_in_the_clear_are_turned_away(
    port: int, coordinator: FakeCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    assert b"HTTP/1.1" not in await stream.receive()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_status_and_chat_speak_https(
    port: int, pems: Pems, coordinator: FakeCoordinator
) -> None:
    def models(url: str, authority: Path | None) -> object:
        with connect(url, "key", authority) as client:
            return get(client, "/v1/models")["data"][0]["id"]

    url = f"https://127.0.0.1:{port}"
    assert await to_thread.run_sync(models, url, pems[0]) == coordinator.model.id
    for wrong, reason in (
        (url, "not trusted .*--ca"),
        (f"http://127.0.0.1:{port}", "broke off"),
    ):
        with pytest.raises(SetupError, match=reason):
            await to_thread.run_sync(models, wrong, None)


async def test_https_to_a_server_that_speaks_http(coordinator: FakeCoordinator) -> None:
    async with serving(coordinator) as port:
        client = connect(f"https://127.0.0.1:{port}")
        with client, pytest.raises(SetupError, match="does it speak http"):
            await to_thread.run_sync(get, client, "/health")


class TestFiles:
    def test_both_in_one_file(self, pems: Pems, tmp_path: Path) -> None:
        both = tmp_path / "both.pem"
        both.write_bytes(pems[0].read_bytes() + pems[1].read_bytes())
        assert load_tls(both, None) is not None
        assert load_tls(None, None) is None

    def test_of_no_use(self, pems: Pems, tmp_path: Path) -> None:
        cert, key = pems
        other = make_certificate(tmp_path, "other")[1]
        junk = tmp_path / "junk.pem"
        junk.write_text("junk")
        locked = tmp_path / "locked.key"
        locked.write_bytes(lock(key))
        for files, reason in (
            ((None, key), "give --tls-cert"),
            ((tmp_path / "none.pem", key), "can't read .*none.pem: No such file"),
            ((cert, tmp_path), "can't read .*: Is a directory"),
            ((cert, other), "is not that of the certificate"),
            ((cert, None), "must be PEM files"),
            ((junk, key), "must be PEM files"),
            ((cert, locked), "pass phrase"),
        ):
            with pytest.raises(BadConfiguration, match=reason):
                load_tls(*files)

    def test_an_authority_of_no_use(self, tmp_path: Path) -> None:
        with pytest.raises(BadConfiguration, match="--ca .* is no certificate"):
            connect("https://x", authority=tmp_path / "none.pem")
        with pytest.raises(BadConfiguration, match="mistyped"):
            connect("http://x", "kéy")
