"""The client of the comparison, against a socket that says what a test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.streams import ContestFailed, Stream, finish, pump, read_for

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 7}}\n\n'
DONE = b"data: [DONE]\n\n"


@contextmanager
def answering(*parts: bytes) -> Iterator[Stream]:
    """A stream whose answer comes in these parts, and then ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                for part in parts:
                    connection.sendall(part)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with Stream(listener.getsockname()[1], "hi", 5) as stream:
            yield stream
        thread.join(5)


def test_counts_text_and_usage_wherever_the_bytes_are_cut() -> None:
    whole = HEADERS + b": keepalive 1/2\n\n" + event("a\n") + event("") + event("é") + USAGE + DONE
    for cut in range(1, len(whole), 7):
        with answering(whole[:cut], whole[cut:]) as stream:
            finish([stream], 5, seconds=5)
            assert stream.text == "a\né"
            assert len(stream.times) == 2
            assert (stream.tokens, stream.prompt_tokens) == (5, 7)
            assert 0 <= stream.first_seconds <= stream.end - stream.sent


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b'{"error": "no such field"}', "no such field"),
        (HEADERS + b'data: {"error": {"message": "lost a rank"}}\n\n', "lost a rank"),
        (HEADERS + event("half"), "broke off"),
        (HEADERS + event("four") + USAGE.replace(b"5", b"4") + DONE, "4 tokens, not 5"),
    ],
)
def test_an_answer_that_is_not_whole_is_a_failure(answer: bytes, words: str) -> None:
    with answering(answer) as stream, pytest.raises(ContestFailed, match=words):
        finish([stream], 5, seconds=5)


def test_waiting_has_an_end() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Stream(listener.getsockname()[1], "hi", 5) as stream,
    ):
        read_for([stream], 0.01)
        with pytest.raises(ContestFailed, match="not within"):
            pump([stream], lambda: False, 0.01)
