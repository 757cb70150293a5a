"""`tandem chat`: a conversation with the served model in a terminal."""

from __future__ import annotations

import contextlib
import importlib
import sys
from contextlib import closing
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from cluster.cli.answer import End, Message, Sign, Words, answer
from cluster.cli.server import DEFAULT_URL, ApiKey, Authority, Url, connect, get
from cluster.core.errors import SetupError

GREETING = "Ctrl-C cancels an answer, Ctrl-D leaves."
UNPRINTABLE = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""A model's words must not move the cursor or change the terminal."""


def chat(
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    ca: Authority = None,
    model: Annotated[
        str | None, typer.Option(help="Model to talk to; without it, the one that is served.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Instructions to the model, ahead of the conversation.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest answer, in tokens.", min=1)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0 for the likeliest words, more for variety.", min=0, max=2),
    ] = None,
    once: Annotated[
        str | None,
        typer.Option(
            help="Ask this one question, print the answer, and leave.", metavar="QUESTION"
        ),
    ] = None,
) -> None:
    """Talk to the served model in this terminal.

    Ctrl-C cancels the answer that is being written, on every machine and at once, and stays in
    the conversation; Ctrl-D leaves. What comes in through a pipe is taken as one question.

    **Examples**

        tandem chat
        tandem chat --once "What is a step?" --temperature 0
        git diff | tandem chat --system "Write a commit message."
    """
    if once is None and not sys.stdin.isatty():
        once = sys.stdin.read()
    with connect(url, key, ca) as client:
        options: dict[str, Any] = {"model": model or served_model(client)}
        if max_tokens is not None:
            options["max_tokens"] = max_tokens
        if temperature is not None:
            options["temperature"] = temperature
        messages = [] if system is None else [_message("system", system)]
        conversation = Conversation(client, options, messages)
        if once is None:
            _talk(conversation)
        else:
            conversation.ask(once)


def served_model(client: httpx.Client) -> str:
    """The id of the first model that the server offers."""
    try:
        return str(get(client, "/v1/models")["data"][0]["id"])
    except (LookupError, TypeError) as error:
        raise SetupError(f"what answers at {client.base_url} is no Tandem server") from error


class Conversation:
    """Turns so far, and how to take one more."""

    def __init__(
        self, client: httpx.Client, options: dict[str, Any], messages: list[Message]
    ) -> None:
        self.messages = messages
        self.model = str(options["model"])
        self._client = client
        self._options = options
        self._console = Console(stderr=True, highlight=False)

    def ask(self, question: str) -> None:
        """Print the answer as it comes. KeyboardInterrupt hangs up, which cancels the request;
        what was said until then stays part of the conversation. So it is with SetupError."""
        messages = [*self.messages, _message("user", question)]
        said = ""
        status = self._console.status("waiting", spinner="dots")
        if self._console.is_terminal:
            status.start()
        try:
            with closing(answer(self._client, {**self._options, "messages": messages})) as parts:
                for part in parts:
                    match part:
                        case Sign(text):
                            status.update(text)
                        case Words(text):
                            status.stop()
                            said += text
                            sys.stdout.write(text.translate(UNPRINTABLE))
                            sys.stdout.flush()
                        case End(reason):
                            cut = " (cut: max_tokens or the context is used up)"
                            self._note(cut if reason == "length" else "")
        finally:
            status.stop()
            if said:
                print(flush=True)
                self.messages = [*messages, _message("assistant", said)]

    def _note(self, text: str) -> None:
        if text and self._console.is_terminal:
            self._console.print(text, style="dim", end="")


def _talk(conversation: Conversation) -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # line editing and history in input()
    print(f"{conversation.model}. {GREETING}")
    while True:
        try:
            question = input("\n> ")
        except KeyboardInterrupt:
            print(f"\n{GREETING}", end="")
            continue
        except EOFError:
            print()
            return
        if not question.strip():
            continue
        try:
            conversation.ask(question)
        except KeyboardInterrupt:
            print("(cancelled)")
        except SetupError as error:
            print(f"tandem: {error}", file=sys.stderr)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
