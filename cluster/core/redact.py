"""Takes out of a text what a bug report must not have: secrets, people's names, what was asked.

Pure. What is known to be secret is taken out by value, the rest by its form or by the name beside
it. In doubt something is taken out: a report with a hole is of use, a key on the web is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

KEY = "[key removed]"
CODE = "[code removed]"
PROMPT = "[text removed]"
USER = "[user]"
ADDRESS = "[address removed]"

COMMON_USERS = frozenset({"root", "tandem", "_tandem", "admin", "user", "ubuntu", "runner"})
"""Accounts that say nothing of a person."""
SHORTEST = 3
"""Characters of a user or host name that is looked for: a shorter one is in every other word."""

_SECRET = (
    r"secret|password|passwd|passphrase|token|api[_-]?key|private[_-]?key|authorization|cookie"
)
_SECRET_NAME = re.compile(rf"(?i)(?:.*[_-])?(?:{_SECRET}|key|certificate|authority|sha256)")
_PROMPT_NAME = re.compile(
    r"(?i)prompt|messages?|content|text|input|instructions|system_prompt|body|answer|arguments"
)
_BODY = re.compile(r'\bbody\b.*\btext=|"event": ?"body"')
"""A log line that `tandem serve --log-prompts` writes."""

_FORMS = (
    # To the end of the text where the end of a block is missing.
    (re.compile(r"(?s)-----BEGIN ([A-Z0-9 ]*)-----(?:.*?-----END \1-----|.*)"), KEY),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',\[]+"), rf"\1 {KEY}"),
    (re.compile(r"://[^/@\s\"']+@"), f"://{KEY}@"),
    (re.compile(r"\b(?:tdj1_|tdm_|hf_|sk-|gh[a-z]_)[A-Za-z0-9_-]+"), KEY),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)+"), KEY),
    # On command lines, in files of settings and in JSON alike.
    (
        re.compile(r"(--(?:token|key|password))[ =]+(?:\"[^\"]*\"|'[^']*'|[^\s\"'\[]\S*)"),
        rf"\1 {KEY}",
    ),
    (
        re.compile(
            rf"(?i)((?<![A-Za-z0-9])[\w-]*(?:{_SECRET})[\"']?\s*[=:]\s*)"
            r"(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s\"'\[,;}][^\s,;}]*)"
        ),
        rf"\1{KEY}",
    ),
    # What is long and looks random, whatever it is of: secrets of epochs, digests, ids of machines.
    (re.compile(r"(?<![A-Za-z0-9])[0-9A-Fa-f]{32,}(?![A-Za-z0-9])"), CODE),
    (re.compile(r"(?<![\w-])(?=[\w-]*[a-z])(?=[\w-]*[A-Z])(?=[\w-]*[0-9])[\w-]{40,}", re.A), CODE),
    (re.compile(r"(?=[a-z0-9+/]*[A-Z])(?=[A-Z0-9+/]*[a-z])[A-Za-z0-9+/]{60,}={0,2}"), CODE),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), ADDRESS),
    (re.compile(r"(?:/Users|(?:/var)?/home)/[^/\s:\"'\\,;]+|/root(?![\w.-])"), "~"),
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """What is to be taken out of everything, by value."""

    secrets: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    """Folders; "~" takes their place."""
    hosts: tuple[str, ...] = ()
    """Each gets a number, so that machines can still be told apart."""


def redact(text: str, known: Known = Known()) -> str:
    """`text` without what is `known`, and without what has the form of a secret, of a home folder
    or of a mail address."""
    for secret in sorted(filter(None, known.secrets), key=len, reverse=True):
        for spelled in {secret, json.dumps(secret)[1:-1]}:
            text = text.replace(spelled, KEY)
    for home in sorted((h.rstrip("/") for h in known.homes), key=len, reverse=True):
        if len(home) >= SHORTEST:
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    for form, instead in _FORMS:
        text = form.sub(instead, text)
    for number, host in _numbered(known.hosts):
        text = _word(host).sub(f"host-{number}", text)
    for user in known.users:
        if len(user) >= SHORTEST and user.lower() not in COMMON_USERS:
            text = _word(user).sub(USER, text)
    return text


def redact_json(value: Any, known: Known = Known()) -> Any:
    """A JSON value in which nothing is left below a name that says secret or prompt; the rest as
    `redact` has it."""
    match value:
        case dict():
            return {
                redact(str(name), known): _below(str(name), each, known)
                for name, each in value.items()
            }
        case list() | tuple():
            return [redact_json(each, known) for each in value]
        case str():
            return redact(value, known)
    return value


def has_prompts(log: str) -> bool:
    """Whether a log has what people have asked in it: `--log-prompts` was on."""
    return _BODY.search(log) is not None


def removed(texts: Iterable[str]) -> dict[str, int]:
    """How often each kind was taken out of redacted texts."""
    counts: dict[str, int] = {}
    for text in texts:
        for mark in (KEY, CODE, PROMPT, USER, ADDRESS):
            counts[mark] = counts.get(mark, 0) + text.count(mark)
    return {mark: count for mark, count in counts.items() if count}


def _below(name: str, value: Any, known: Known) -> Any:
    if isinstance(value, str | list | dict) and value:
        if _SECRET_NAME.fullmatch(name):
            return KEY
        if _PROMPT_NAME.fullmatch(name):
            return PROMPT
    return redact_json(value, known)


def _numbered(hosts: Iterable[str]) -> list[tuple[int, str]]:
    """(number, name) of each host, by its first label too, the longest name first."""
    short = dict.fromkeys(host.split(".")[0].lower() for host in hosts)
    numbers = {name: number for number, name in enumerate(short, 1)}
    names = {host.lower(): numbers[host.split(".")[0].lower()] for host in hosts} | numbers
    kept = [
        (number, name) for name, number in names.items()
        if len(name) >= SHORTEST and name != "localhost"
    ]  # fmt: skip
    return sorted(kept, key=lambda each: len(each[1]), reverse=True)


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?i)(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
