from __future__ import annotations

from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.answer import End, Sign, Words, answer, lines, parts
from cluster.cli.server import connect
from cluster.core.errors import SetupError
from tests.unit.cli.canned import CannedServer, Stream, words


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")), st.data())
def test_lines_do_not_depend_on_how_bytes_arrive(text: str, data: st.DataObject) -> None:
    raw = f"data: {text}\n\n: sign\r\n".encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)))))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert list(lines(chunks)) == [f"data: {text}", "", ": sign"]


def test_parts_come_in_order() -> None:
    stream = [": prefill 1/2", "", *words("Hel", "lo", finish="length")]
    assert list(parts(stream)) == [Sign("prefill 1/2"), Words("Hel"), Words("lo"), End("length")]


def test_an_error_in_the_stream_is_raised_with_its_message() -> None:
    stream = [*words("Hel", finish=None), 'data: {"error": {"message": "the epoch ended"}}']
    with pytest.raises(SetupError, match="the epoch ended"):
        list(parts(stream))


def test_an_answer_without_an_end_is_an_error() -> None:
    with pytest.raises(SetupError, match="hung up"):
        list(parts(words("Hel", finish=None)))


def test_a_refusal_is_raised_with_its_message(server: CannedServer) -> None:
    server.answers["/v1/chat/completions"] = (400, {"error": {"message": "messages is empty"}})
    with connect(server.url) as client, pytest.raises(SetupError, match="messages is empty"):
        list(answer(client, {}))


def test_closing_an_answer_hangs_up(server: CannedServer) -> None:
    server.answers["/v1/chat/completions"] = Stream(words("Hel", finish=None), hold=True)
    with connect(server.url) as client, closing(answer(client, {})) as stream:
        assert next(stream) == Words("Hel")
        assert not server.hung_up.is_set()
        stream.close()
        assert server.hung_up.wait(5)
    assert server.bodies == [{"stream": True}]
