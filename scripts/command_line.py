"""What the command line says of itself: its verbs and their options, for pages made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from cluster.cli.main import HELP, VERBS, build

PLACEHOLDERS = {
    "<str>": "TEXT", "<int>": "N", "<int range>": "N", "<float>": "N", "<float range>": "N",
    "<path>": "PATH",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Option:
    """An option or argument of a verb."""

    form: str
    """"--port N", "-w, --watch", "[ID]"."""
    about: str
    default: str
    """In words; empty for none."""
    variable: str
    """Of the environment, that stands for it; empty for none."""
    positional: bool


@dataclass(frozen=True, slots=True)
class Verb:
    """One command, as `tandem VERB --help` has it."""

    name: str
    summary: str
    paragraphs: tuple[str, ...]
    """Without the summary; code is in backticks, or a paragraph whose lines begin with 4 spaces."""
    options: tuple[Option, ...]

    @property
    def usage(self) -> str:
        """As in `tandem token [OPTION]... create|list|revoke [ID]`."""
        words = [option.form for option in self.options if option.positional]
        return " ".join(["tandem", self.name, "[OPTION]...", *words])


def about() -> str:
    """What Tandem is, in a paragraph or more."""
    return HELP.strip()


def verbs() -> Iterator[Verb]:
    """All of them, in the order of `tandem --help`."""
    for name in VERBS:
        group: Any = typer.main.get_command(build(name))
        command = group.commands[name]
        context = command.make_context(name, [], resilient_parsing=True)
        summary, *paragraphs = _paragraphs(command.help)
        options = tuple(_option(each, context) for each in command.params)
        yield Verb(name, summary, tuple(paragraphs), options)


def _paragraphs(text: str) -> list[str]:
    parts = [part.strip("\n") for part in re.split(r"\n\s*\n", text.replace("\b", ""))]
    return [part if part.startswith("    ") else " ".join(part.split()) for part in parts if part]


def _option(parameter: Any, context: Any) -> Option:
    form, said = parameter.get_help_record(context)
    positional = parameter.param_type_name == "argument"
    if positional:
        form = form.removeprefix("[").split("] <")[0]
        form = re.sub(r"^\S+ <(.*\|.*)>$", r"\1", form)
        form = re.sub(r" <.*>$", "", form)
        form = form.strip("[]")
        form = form if "|" in form else form.upper()
        form = form if parameter.required else f"[{form}]"
    for shown, better in PLACEHOLDERS.items():
        form = form.replace(shown, better)
    text, extra = re.fullmatch(r"(?s)(.*?)(?:  \[([^\[]*)\])?", said).groups()  # type: ignore[union-attr]
    facts = dict(part.partition(": ")[::2] for part in (extra or "").split("; "))
    return Option(
        form=form,
        about=" ".join(text.split()),
        default=facts.get("default", "").strip("()").removesuffix(".0"),
        variable=facts.get("env var", ""),
        positional=positional,
    )
