from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cluster.cli import chat
from cluster.cli.main import build
from cluster.cli.server import connect
from tests.unit.cli.canned import CannedServer, Stream, words

PATH = "/v1/chat/completions"


@pytest.fixture
def server(server: CannedServer) -> CannedServer:
    server.answers["/v1/models"] = (200, {"data": [{"id": "tandem-demo"}]})
    server.answers[PATH] = Stream([": prefill 5/10\n\n", *words("A step", " is…")])
    return server


def invoke(server: CannedServer, *options: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(build("chat"), ["chat", "--url", server.url, *options], input=stdin)


def typed(*inputs: str | type[BaseException]) -> Callable[[str], str]:
    """A stand-in for input()."""
    left: Iterator[Any] = iter(inputs)

    def read(prompt: str) -> str:
        match next(left):
            case str(line):
                return line
            case error:
                raise error

    return read


def test_once_prints_the_answer_and_nothing_else(server: CannedServer) -> None:
    result = invoke(server, "--once", "What is a step?", "--temperature", "0", "--max-tokens", "9")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "A step is…\n", "")
    assert server.bodies == [
        {
            "model": "tandem-demo",
            "messages": [{"role": "user", "content": "What is a step?"}],
            "temperature": 0.0,
            "max_tokens": 9,
            "stream": True,
        }
    ]


def test_what_is_piped_in_is_one_question(server: CannedServer) -> None:
    result = invoke(server, "--model", "m", "--system", "Be brief.", stdin="two\nlines")
    assert result.stdout == "A step is…\n"
    assert server.bodies[0]["model"] == "m"
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "two\nlines"},
    ]


def test_a_failure_half_way_is_an_error(server: CannedServer) -> None:
    failure = 'data: {"error": {"message": "rank 1 is gone"}}\n\n'
    server.answers[PATH] = Stream([*words("A st", finish=None), failure])
    result = invoke(server, "--once", "What?")
    assert (result.exit_code, result.stdout) == (1, "A st\n")
    assert result.stderr == "tandem: rank 1 is gone\n"


def test_control_characters_do_not_reach_the_terminal(server: CannedServer) -> None:
    server.answers[PATH] = Stream(words("a\x1b[2Jb\n\tc\x9b"))
    assert invoke(server, "--once", "What?").stdout == "a[2Jb\n\tc\n"


def test_nothing_is_listening() -> None:
    result = CliRunner().invoke(build("chat"), ["chat", "--url", "127.0.0.1:9", "--once", "?"])
    assert result.exit_code == 1
    assert "`tandem serve`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_turns_build_on_each_other(server: CannedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", typed("one", "  ", KeyboardInterrupt, "two", EOFError))
    with connect(server.url) as client:
        chat._talk(chat.Conversation(client, {"model": "m"}, []))
    assert [message["content"] for message in server.bodies[1]["messages"]] == [
        "one",
        "A step is…",
        "two",
    ]


def test_ctrl_c_hangs_up_and_stays(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[PATH] = Stream(words("A st", finish=None), hold=True)

    def first_words_are_enough(text: str) -> int:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdout.write", first_words_are_enough)
    with connect(server.url) as client:
        conversation = chat.Conversation(client, {"model": "m"}, [])
        with pytest.raises(KeyboardInterrupt):
            conversation.ask("What?")
        assert server.hung_up.wait(5)
        assert [message["content"] for message in conversation.messages] == ["What?", "A st"]

        server.answers[PATH] = Stream(words("Yes."))
        conversation.ask("Still there?")
        assert capsys.readouterr().out.endswith("Yes.\n")


def test_an_error_leaves_the_conversation_open(
    server: CannedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[PATH] = (429, {"error": {"message": "the queue is full"}})
    monkeypatch.setattr("builtins.input", typed("one", EOFError))
    with connect(server.url) as client:
        conversation = chat.Conversation(client, {"model": "m"}, [])
        chat._talk(conversation)
    assert "tandem: the queue is full" in capsys.readouterr().err
    assert conversation.messages == []
