from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.body import parse_object, read_body
from cluster.core.errors import BodyTooLarge, InvalidRequest


class Client:
    """Sends the parts of a body, then leaves or ends it."""

    def __init__(self, parts: Sequence[bytes], *, leaves: bool = False) -> None:
        self.parts = list(parts)
        self.leaves = leaves
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        if self.parts:
            more = len(self.parts) > 1 or self.leaves
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": more}
        return {"type": "http.disconnect"}


def scope(**headers: str) -> dict[str, Any]:
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"type": "http", "headers": raw}


async def test_parts_are_joined() -> None:
    assert await read_body(scope(), Client([b"ab", b"", b"cd"]).receive, 4) == b"abcd"


async def test_a_client_that_leaves_before_the_end() -> None:
    assert await read_body(scope(), Client([b"ab"], leaves=True).receive, 4) is None


async def test_one_byte_too_many() -> None:
    client = Client([b"ab", b"cde", b"never read"])
    with pytest.raises(BodyTooLarge, match="4 bytes"):
        await read_body(scope(), client.receive, 4)
    assert client.asked == 2


async def test_a_declared_size_is_believed_before_anything_is_read() -> None:
    client = Client([b"ab"])
    with pytest.raises(BodyTooLarge, match="5 bytes"):
        await read_body(scope(content_length="5"), client.receive, 4)
    assert client.asked == 0


@pytest.mark.parametrize("length", ["", "-5", "many", "²", "3"])
async def test_a_declared_size_that_is_none(length: str) -> None:
    headers = {"type": "http", "headers": [(b"content-length", length.encode("latin-1"))]}
    assert await read_body(headers, Client([b"abcd"]).receive, 4) == b"abcd"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{]", "column 2"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[1]", "object"),
        (b'{"a": ' + b"1" * 5000 + b"}", "number"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
        (b'{"a": ' * 500 + b"1" + b"}" * 500, "deep"),
        (b'{"a": ["b", {"c": "\\ud800"}]}', r"a\[1\]\.c: has half"),
        (b'{"\\ud800": 1}', "half"),
    ],
)
def test_what_is_no_object(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_object(body)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude42"}') == {"a": "🙂"}


@given(st.binary(max_size=50))
def test_any_bytes(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(parse_object(body), dict)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
def test_any_object(value: dict[str, Any]) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse_object(json.dumps(value).encode()) == value
