"""Generate the manual page of `tandem` from its command line: docs/tandem.1.

`--check` changes nothing and fails when the committed page is not what the command line gives.
The page has no version and no date: both would be a second place for what pyproject.toml says.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from command_line import Option, Verb, about, verbs

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tandem.1"

WIDTH = 78
"""Of the page's source."""

VARIABLES = {
    "TANDEM_BLAS": "Matrix library to preload into engines on Linux, or `none`.",
}
"""Those that no option stands for."""
FILES = {
    "~/.config/tandem/keys.json": "Digests of API keys, which `tandem key` makes.",
    "~/.config/tandem/trust": "This machine's certificate; on a server, the cluster's authority.",
    "~/.cache/huggingface/hub": "Models that were downloaded.",
}
STATUS = {
    "0": "Success.",
    "1": "It could not start, or what was asked about is not well; one line on stderr says why.",
    "2": "The command line made no sense.",
    "130": "Ended by Ctrl-C.",
}


def page() -> str:
    """The whole page, as man(7) has it."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    every = list(verbs())
    yield '.\\" Made by scripts/man_page.py from the command line; changes are lost.'
    yield from ('.TH TANDEM 1 "" Tandem "User Commands"', ".ad l")
    yield from (".SH NAME", r"tandem \- several machines serve one large language model together")
    yield from (".SH SYNOPSIS", r".B tandem", r"[\fB\-\-version\fR] [\fB\-h\fR|\fB\-\-help\fR]")
    yield from (r"\fICOMMAND\fR [\fIOPTION\fR]...", ".SH DESCRIPTION")
    for number, paragraph in enumerate(about().split("\n\n")):
        yield from ([".PP"] if number else [])
        yield roff(" ".join(paragraph.split()))
    yield ".SH COMMANDS"
    for verb in every:
        yield from _verb(verb)
    yield ".SH ENVIRONMENT"
    standing = {o.variable: f"Stands for {o.form.split()[0]}." for v in every for o in v.options}
    for name, text in sorted({**VARIABLES, **standing}.items()):
        if name:
            yield from _tagged(name, text)
    for title, rows in (("FILES", FILES), ("EXIT STATUS", STATUS)):
        yield f".SH {title}"
        for name, text in rows.items():
            yield from _tagged(name, text)


def _verb(verb: Verb) -> Iterator[str]:
    yield f".SS {roff(verb.usage)}"
    yield roff(verb.summary)
    for paragraph in verb.paragraphs:
        if paragraph.startswith("    "):
            yield from (".PP", ".RS 4", ".EX")
            yield from (roff(line[4:], code=True) for line in paragraph.splitlines())
            yield from (".EE", ".RE")
        else:
            yield from (".PP", roff(paragraph))
    for option in verb.options:
        yield from _tagged(option.form, _about(option))


def _about(option: Option) -> str:
    facts = [f"Default: {option.default}."] if option.default else []
    return " ".join([option.about, *facts])


def _tagged(name: str, text: str) -> Iterator[str]:
    yield from (".TP", rf"\fB{roff(name, code=True)}\fR", roff(text))


def roff(text: str, *, code: bool = False) -> str:
    """Plain text as roff has it; in prose, code in backticks and words in ** are bold."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq" if code else "'")
    if not code:
        text = re.sub(r"`([^`]+)`|\*\*([^*]+)\*\*", r"\\fB\1\2\\fR", text)
    text = re.sub(r"[^\x00-\x7f]", lambda found: rf"\[u{ord(found[0]):04X}]", text)
    lines = [text] if code else textwrap.wrap(text, WIDTH, break_long_words=False)
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif not PAGE.is_file() or PAGE.read_text() != page():
        sys.exit(f"not current: docs/{PAGE.name}; run: python scripts/man_page.py")


if __name__ == "__main__":
    main()
