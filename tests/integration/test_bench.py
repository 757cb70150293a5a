"""`tandem bench` against servers whose timings, and faults, are known."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.fixed_server import (
    DONE,
    END,
    LAST,
    STREAM,
    TOKEN,
    FixedServer,
    Reply,
    chunk,
    event,
    listening,
    prompt_tokens,
    steady,
    usage,
)
from cluster.bench.answer import Answer
from cluster.bench.drive import FAILURES, IN_FLIGHT
from cluster.bench.figures import summarise
from cluster.bench.http import Connections, Target
from cluster.bench.result import Level, Run, from_json
from cluster.cli.main import build
from cluster.core.errors import AnswerFailed
from tests.conftest import wait_for
from tests.integration.certificates import make_certificate

TTFT, ITL = 0.04, 0.01
Plan = Callable[[dict[str, Any]], Reply]


def plain(status: str, content: object, *headers: str) -> Reply:
    data = json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers, "", ""]
    return Reply([(0.0, data)], "\r\n".join(lines).encode())


@contextmanager
def in_thread(
    plan: Plan, slots: int = 1000, tls: ssl.SSLContext | None = None
) -> Iterator[FixedServer]:
    """The command has an event loop of its own, so the server is in another thread."""
    server = FixedServer(plan, slots, keep=True)
    ready, loops = threading.Event(), []
    over = asyncio.Event()

    async def run() -> None:
        async with listening(server, tls=tls):
            loops.append(asyncio.get_running_loop())
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(5)
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join(5)


def measured(server: FixedServer, tmp_path: Path, *options: str, code: int = 0) -> Run:
    path = tmp_path / "out.json"
    arguments = ["bench", "--url", f"http://127.0.0.1:{server.port}/v1", "--out", str(path)]
    result = CliRunner().invoke(build("bench"), [*arguments, *options])
    assert result.exit_code == code, result.output
    return from_json(path.read_text(), "out.json")


def statuses(level: Level) -> set[str]:
    return {request.status for request in level.requests}


def test_a_closed_loop_finds_what_is_known(tmp_path: Path) -> None:
    ttft, itl = 2 * TTFT, 3 * ITL  # long enough that a busy machine adds no half of it
    whole = ttft + 9 * itl
    with in_thread(steady(ttft, itl)) as server:
        options = ("--concurrency", "1,4", "--requests", "12", "--output", "10", "--prompt", "40")
        run = measured(server, tmp_path, *options, "--slo", "ttft=1s")
    assert [str(level.load) for level in run.levels] == ["1 client", "4 clients"]
    for level in run.levels:
        figures = summarise(level, run.asked.slo)
        assert (figures.ok, figures.output_tokens, figures.prompt_tokens) == (12, 10, 40)
        for name, known in (("ttft", ttft), ("itl", itl), ("e2e", whole)):
            spread = figures.spreads[name]
            # Never before its time; how long after is the machine's business.
            assert spread is not None
            assert 0.98 * known <= spread.p50 <= 1.5 * known, name
        most = level.load.size / whole
        assert 0.6 * most <= figures.request_rate <= 1.02 * most
        assert figures.attained == 1.0
        assert figures.goodput == pytest.approx(figures.request_rate)
    bodies = server.bodies
    assert len({json.dumps(body["messages"]) for body in bodies}) == len(bodies)
    last = bodies[-1]
    assert last["stream_options"] == {"include_usage": True}
    assert (last["max_tokens"], last["ignore_eos"], last["model"]) == (10, True, "fixed")
    assert server.connections <= 3 + 1 + 4 + 1  # they are kept
    assert server.busy == 0


def test_an_open_loop_counts_the_wait_for_a_slow_server(tmp_path: Path) -> None:
    # One at a time takes 0.13 s, and 20 come each second: they queue.
    with in_thread(steady(TTFT, ITL), slots=1) as server:
        run = measured(
            server, tmp_path, "--rates", "20", "--requests", "20", "--output", "10", "--warmup", "0"
        )
    (level,) = run.levels
    figures = summarise(level, run.asked.slo)
    waits = figures.spreads["e2e_planned"]
    assert waits is not None
    assert waits.most > 3 * (TTFT + 9 * ITL)
    assert [request.planned for request in level.requests] != sorted(
        request.end for request in level.requests
    )
    assert all(r.sent >= r.planned for r in level.requests)
    assert figures.late < 0.5  # its client was not what was slow


def test_sessions_grow_and_share_their_prefix(tmp_path: Path) -> None:
    options = ("--turns", "3", "--prefix", "30", "--requests", "6", "--concurrency", "1")
    with in_thread(steady(0.0, 0.0)) as server:
        run = measured(server, tmp_path, *options, "--prompt", "20", "--output", "5")
    (level,) = run.levels
    assert statuses(level) == {"ok"}
    assert [r.turn for r in level.requests] == [0, 1, 2] * 2
    asked = [body["messages"] for body in server.bodies[-6:]]
    assert len({json.dumps(messages[0]) for messages in asked}) == 1
    for first, second, third in (asked[:3], asked[3:]):
        assert [m["role"] for m in third] == ["system", *["user", "assistant"] * 2, "user"]
        assert third[: len(second)] == second and second[: len(first)] == first
        assert second[2]["content"] == " word" * 5
    assert asked[0][1] != asked[3][1]


def test_clients_hang_up(tmp_path: Path) -> None:
    with in_thread(steady(TTFT, ITL)) as server:
        run = measured(
            server, tmp_path, "--cancel", "1", "--requests", "8", "--output", "30",
            "--concurrency", "2", code=1,
        )  # fmt: skip
        assert statuses(run.levels[0]) == {"cancelled"}
        assert server.hung_up >= 8
        assert server.busy == 0
    assert all(0 <= request.output_tokens < 30 for request in run.levels[0].requests)


def every(other: Reply, share: int = 2) -> Plan:
    """Each second request is answered by `other`; those that look at the server are not."""
    good = steady(0.01, 0.0)
    count = 0

    def plan(body: dict[str, Any]) -> Reply:
        nonlocal count
        if (body.get("max_tokens") or 0) < 8:
            return good(body)
        count += 1
        return other if count % share == 0 else good(body)

    return plan


HALF = event({"choices": [{"delta": {"content": "x"}}]})
FAULTS = {
    "http_500": plain("500 Oops", {"error": {"message": "it broke"}}),
    "http_429": plain("429 Busy", {"error": {"message": "later"}}, "Retry-After: 1"),
    "error_event": Reply([(0.0, HALF + event({"error": {"message": "lost"}}) + LAST)]),
    "hung_up": Reply([(0.0, TOKEN)], hang_up=True),
    "hung_up early": Reply([], b"", hang_up=True),
    "hung_up quietly": Reply([(0.0, TOKEN + LAST)]),
    "bad_stream": Reply([(0.0, chunk(b"data: {\n\n") + LAST)]),
    "bad_stream json": plain("200 OK", {"choices": []}, "Content-Type: application/json"),
    "bad_http": Reply([], b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "empty": Reply([(0.0, END + DONE)]),
    "timeout": Reply([(0.0, TOKEN), (60.0, DONE)]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failures_are_counted_by_kind(tmp_path: Path, fault: str) -> None:
    kind = fault.split()[0]
    options = ("--requests", "6", "--output", "8", "--concurrency", "1", "--warmup", "0")
    begin = time.monotonic()
    with in_thread(every(FAULTS[fault])) as server:
        run = measured(server, tmp_path, *options, "--timeout", "1")
        assert server.busy <= (fault == "timeout")
    (level,) = run.levels
    figures = summarise(level, run.asked.slo)
    assert figures.errors == {kind: 3}
    assert figures.ok == 3
    if kind == "http_429":
        assert time.monotonic() - begin >= 3.0  # as long as it asks for
        assert level.requests[1].detail == "later"


def test_a_server_that_only_fails_is_given_up(tmp_path: Path) -> None:
    def plan(body: dict[str, Any]) -> Reply:
        probing = body["max_tokens"] < 8
        return steady(0.0, 0.0)(body) if probing else FAULTS["http_500"]

    with in_thread(plan) as server:
        run = measured(
            server, tmp_path, "--concurrency", "40,50", "--output", "8", "--warmup", "0", code=1
        )
    (level,) = run.levels  # the next is not begun
    assert FAILURES <= len(level.requests) <= FAILURES + 50


@pytest.mark.parametrize(
    ("refused", "length"),
    [({"ignore_eos"}, "max_tokens"), ({"ignore_eos", "max_tokens"}, "max_completion_tokens")],
)
def test_what_a_server_does_not_take_is_left_out(
    tmp_path: Path, refused: set[str], length: str
) -> None:
    def plan(body: dict[str, Any]) -> Reply:
        if refused & body.keys():
            return plain("400 Bad Request", {"error": {"message": "what is that?"}})
        return steady(0.0, 0.0)(body)

    with in_thread(plan) as server:
        run = measured(server, tmp_path, "--requests", "3", "--concurrency", "1", "--output", "9")
    assert statuses(run.levels[0]) == {"ok"}
    assert server.bodies[-1][length] == 9
    assert "ignore_eos" in run.warnings[0]
    assert run.asked.fields == {}


def test_tokens_that_nobody_counts(tmp_path: Path) -> None:
    def plan(body: dict[str, Any]) -> Reply:
        return Reply([(0.0, TOKEN * body["max_tokens"] + END + DONE)])

    with in_thread(plan) as server:
        run = measured(server, tmp_path, "--requests", "3", "--concurrency", "1", "--output", "9")
    assert [r.output_tokens for r in run.levels[0].requests] == [9] * 3
    assert not any(r.counted for r in run.levels[0].requests)
    assert "does not count tokens" in run.warnings[0]


def test_ctrl_c_leaves_what_was_measured(tmp_path: Path) -> None:
    def interrupt(body: dict[str, Any]) -> Reply:
        if len(server.bodies) == 12:
            signal.raise_signal(signal.SIGINT) if threading.current_thread() is (
                threading.main_thread()
            ) else signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return steady(TTFT, ITL)(body)

    with in_thread(interrupt) as server:
        run = measured(
            server, tmp_path, "--concurrency", "2", "--seconds", "60", "--output", "10", code=130
        )
    assert run.interrupted
    (level,) = run.levels
    figures = summarise(level, run.asked.slo)
    assert figures.ok >= 4
    assert 1 <= figures.unfinished <= 2
    assert level.window < 30
    assert figures.output_rate > 0
    assert server.busy == 0 or server.hung_up


def test_an_unwritable_place_is_said_before_a_run() -> None:
    arguments = ["bench", "--url", "127.0.0.1:9", "--out", "/none/such/out.json"]
    result = CliRunner().invoke(build("bench"), arguments)
    assert result.exit_code == 1
    assert "there is no folder /none/such" in result.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--concurrency", "1", "--rates", "1"], "--concurrency is a closed loop"),
        (["--url", "127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
        (["--show", "/none.json"], "can't read /none.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options: list[str], line: str) -> None:
    result = CliRunner().invoke(build("bench"), ["bench", *options])
    assert result.exit_code == 1
    assert line in result.stderr
    assert result.stderr.count("tandem:") == 1


async def test_connections_are_kept_and_replaced() -> None:
    two = steady(0.0, 0.0)({"max_tokens": 2, "messages": []})
    replies = [two, two, Reply([(0.0, TOKEN + DONE)], hang_up=True), two]
    async with listening(FixedServer(lambda _: replies.pop(0))) as server:
        connections = Connections(Target("127.0.0.1", server.port, ""))
        for made in (1, 1, 1, 2):  # the third was closed after its answer
            answer = Answer()
            assert await connections.post("/v1/chat/completions", b"{}", answer)
            assert answer.complete
            assert server.connections == made
            await asyncio.sleep(0.02)  # for a goodbye, where there is one
            await wait_for(lambda: server.busy == 0)
        connections.close()
        connections.close()
        await wait_for(lambda: server.busy == 0)


async def test_cancelling_a_request_hangs_up() -> None:
    async with listening(FixedServer(lambda _: Reply([(0.0, TOKEN), (60.0, DONE)]))) as server:
        connections = Connections(Target("127.0.0.1", server.port, ""))
        answer = Answer()
        asking = asyncio.create_task(connections.post("/v1/chat/completions", b"{}", answer))
        await wait_for(lambda: answer.times)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await wait_for(lambda: server.hung_up == 1)


async def test_nobody_there() -> None:
    async with listening(FixedServer(steady(0.0, 0.0))) as server:
        port = server.port
    with pytest.raises(AnswerFailed) as caught:
        await Connections(Target("127.0.0.1", port, "")).post("/", b"{}", Answer())
    assert caught.value.kind == "connect"


async def test_a_response_cut_anywhere_is_the_same() -> None:
    whole = STREAM + TOKEN * 2 + END + usage(3, 2) + DONE
    for size in (1, 7, 64):
        cuts = [(0.0, whole[i : i + size]) for i in range(0, len(whole), size)]
        async with listening(FixedServer(lambda _, cuts=cuts: Reply(cuts, b""))) as server:  # type: ignore[misc]
            answer = Answer()
            connections = Connections(Target("127.0.0.1", server.port, ""))
            assert await connections.post("/v1/chat/completions", b"{}", answer)
            assert (len(answer.times), answer.usage["prompt_tokens"]) == (2, 3)
            connections.close()


def test_bounds_are_there() -> None:
    assert IN_FLIGHT <= 5000
    assert prompt_tokens({"messages": [{"content": "a b"}]}) == 6


def test_https_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    options = ["--requests", "3", "--concurrency", "1", "--output", "9"]
    with in_thread(steady(0.0, 0.0), tls=context) as server:
        url = f"https://127.0.0.1:{server.port}"
        trusting = ["--ca", str(certificate), "--key", "k"]
        run = measured(server, tmp_path, "--url", url, *trusting, *options)
        refused = CliRunner().invoke(build("bench"), ["bench", "--url", url, *options])
    assert statuses(run.levels[0]) == {"ok"}
    assert refused.exit_code == 1
    assert "its certificate is not trusted" in refused.stderr
