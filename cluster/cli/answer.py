"""One streamed answer of `/v1/chat/completions`, as a client reads it."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.cli.server import complaint, readable_errors
from cluster.core.errors import SetupError

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Sign:
    """The server is at work: `text` says on what, as in "prefill 4096/67580"."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """Some more of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The answer is complete; `reason` is "stop" or "length"."""

    reason: str


Part = Sign | Words | End


def answer(client: httpx.Client, body: dict[str, Any]) -> Generator[Part, None, None]:
    """Ask, and yield what comes; the last part is an End.

    Closing the generator closes the connection, which cancels the request. Raises SetupError
    when the server refuses, fails, or hangs up in the middle of its answer.
    """
    body = {**body, "stream": True}
    with (
        readable_errors(client),
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        if response.is_error:
            response.read()
            raise SetupError(complaint(response))
        yield from parts(lines(response.iter_bytes()))


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of an event stream. Only LF ends one here: JSON may hold U+2028 and its like."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode("utf-8", "replace")


def parts(stream: Iterable[str]) -> Iterator[Part]:
    """The parts of one answer from its lines; raises SetupError when it does not end well."""
    reason = None
    for line in stream:
        if line.startswith(":"):
            yield Sign(line[1:].strip())
        elif line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                break
            event = json.loads(data)
            if "error" in event:
                raise SetupError(str(event["error"].get("message", event["error"])))
            for choice in event.get("choices", ()):
                if text := choice.get("delta", {}).get("content"):
                    yield Words(text)
                reason = choice.get("finish_reason") or reason
    if reason is None:
        raise SetupError("the server hung up before the answer was complete")
    yield End(reason)
