"""What a run must know of a server before it begins: which model, which fields it takes, and how
many tokens a word is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.bench.answer import Answer
from cluster.bench.ask import PATH, Body
from cluster.bench.prompts import Calibration, Message, calibrate, random_words
from cluster.core.errors import AnswerFailed, SetupError

FEW, MANY = 1, 257
"""Words of the two prompts that are counted: with one, what is left is the overhead."""
SAMPLE = 3000
"""Words of the longer one where it is only tokenized."""
PROBE = 4
"""Tokens that a probe asks for."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found."""

    body: Body
    calibration: Calibration
    notes: tuple[str, ...]


def probe(client: httpx.Client, model: str, fields: dict[str, Any], nonce: str) -> Found:
    """Ask twice, briefly. `fields` go along with every request. Raises SetupError where the
    server answers neither well; httpx's errors pass through."""
    body, few, notes = _accepted(client, model, fields, nonce)
    many = _tokenized(client, model, nonce)
    if many is None:
        many = [(FEW, few), (MANY, _prompt_tokens(client, body, MANY, nonce))]
    if not all(tokens for _, tokens in many):
        notes.append(
            "the server does not count tokens: a word counts as one in prompts, a piece of the "
            "answer as one in rates"
        )
        return Found(body, Calibration(0.0, 1.0), tuple(notes))
    return Found(body, calibrate(*many), tuple(notes))


def _accepted(
    client: httpx.Client, model: str, fields: dict[str, Any], nonce: str
) -> tuple[Body, int, list[str]]:
    """The fullest request that the server takes, the tokens of its prompt, and what was left
    out."""
    reasons = []
    for body in _bodies(model, fields):
        try:
            tokens = _prompt_tokens(client, body, FEW, nonce)
        except AnswerFailed as failure:
            if failure.kind not in ("http_400", "http_422"):
                raise SetupError(f"the server answers no request: {failure}") from failure
            reasons.append(str(failure))
            continue
        notes = []
        if "ignore_eos" not in (body.fields or {}):
            notes.append(
                "the server does not take ignore_eos: answers end where the model ends them, and "
                "may be shorter than asked"
            )
        return body, tokens, notes
    raise SetupError(f"the server refuses what it is asked: {reasons[0]}")


def _bodies(model: str, fields: dict[str, Any]) -> Iterator[Body]:
    yield Body(model, fields={**fields, "ignore_eos": True})
    yield Body(model, fields=fields)
    yield Body(model, "max_completion_tokens", fields)


def _prompt_tokens(client: httpx.Client, body: Body, words: int, nonce: str) -> int:
    """Tokens of a prompt of so many words, by the usage of its answer; 0 where there is none."""
    answer = Answer()
    content = body.of(_messages(words, nonce), PROBE)
    headers = {"content-type": "application/json"}
    with client.stream("POST", PATH, content=content, headers=headers) as response:
        answer.head(response.status_code, dict(response.headers))
        for data in response.iter_bytes():
            answer.body(data, time.monotonic())
        answer.end()
    tokens = answer.usage.get("prompt_tokens")
    return tokens if isinstance(tokens, int) else 0


def _tokenized(client: httpx.Client, model: str, nonce: str) -> Sequence[tuple[int, int]] | None:
    """(words, tokens) of two conversations, by /tokenize; None where there is no such thing."""
    found = []
    for words in (FEW, SAMPLE):
        response = client.post(
            "/tokenize", json={"model": model, "messages": _messages(words, nonce)}
        )
        try:
            answer = response.json()
            tokens = answer.get("count", len(answer.get("tokens", ())))
        except (ValueError, AttributeError, TypeError):
            return None
        if response.is_error or not isinstance(tokens, int) or not tokens:
            return None
        found.append((words, tokens))
    return found


def _messages(words: int, nonce: str) -> list[Message]:
    return [{"role": "user", "content": random_words(words, nonce, "probe", words)}]
