"""What is measured of one contestant in one round: figures by name.

A figure ends in its unit: _rate tokens a second, _seconds. A measure that a contestant does not
offer raises Skipped, and so does one whose option is not built yet.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.contestants import Raw, Served, Tandem, tandem, tandem_has
from benchmarks.models import Subject
from benchmarks.streams import Stream, finish, pump, read_for
from tests.e2e.cluster_process import wait_until

Figures = dict[str, float]
WARM_TOKENS = 32
LEAVE_AT = 0.4
"""Share of a long prefill, by time, after which its client hangs up."""
BATCHES = (8, 16)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "minItems": 400,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 12},
                    "kind": {"enum": ["coordinator", "agent", "engine"]},
                    "port": {"type": "integer", "minimum": 0, "maximum": 65535},
                },
                "required": ["name", "kind", "port"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["rows"],
    "additionalProperties": False,
}
RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "rows", "strict": True, "schema": SCHEMA},
}


class Skipped(Exception):
    """Raised when a measure can't be taken; its text says why."""


def long_prompt(tokens: int, salt: str) -> str:
    """About `tokens` tokens that share no prefix with those of another salt."""
    return salt + " " + " ".join(str(number % 10) for number in range(tokens * 2 // 3))


def short_prompts(count: int, salt: str) -> list[str]:
    """`count` different questions."""
    return [f"{salt} {number}: tell me about the weather in May" for number in range(count)]


# Contestants behind HTTP.


def served_warm(it: Served, subject: Subject, salt: str) -> Figures:
    """Nothing to see: the first steps are slower."""
    for content in (f"warm {salt}", long_prompt(subject.lengths.prompt // 10, f"warm {salt}")):
        with Stream(it.port, content, WARM_TOKENS) as stream:
            finish([stream], WARM_TOKENS)
    return {}


def served_decode(it: Served, subject: Subject, salt: str) -> Figures:
    """One stream, without drafts and, where the contestant has them, with."""
    figures = {"decode_rate": _decode(it, f"{salt} hello", subject.lengths.decode, it.no_drafts)}
    if it.no_drafts:
        figures["decode_drafts_rate"] = _decode(it, f"{salt} hullo", subject.lengths.decode, {})
    return figures


def served_batch(it: Served, subject: Subject, salt: str) -> Figures:
    """Several streams at once, from the first one sent to the last one's end."""
    # Not counted: memory that is touched for the first time costs more than what is done in it.
    _batch(it, max(BATCHES), WARM_TOKENS, f"{salt} warm")
    tokens = subject.lengths.batch
    return {f"batch{n}_rate": _batch(it, n, tokens, f"{salt} {n}") for n in BATCHES}


def served_prefill(it: Served, subject: Subject, salt: str) -> Figures:
    """A long prompt that nobody has seen, and the same with another tail."""
    prompt = long_prompt(subject.lengths.prompt, f"{salt} prefill")
    cold, tokens = first_token(it, prompt)
    it.settle()
    again, _ = first_token(it, prompt + " and another end")
    it.settle()
    return {"cold_seconds": cold, "prefill_rate": tokens / cold, "retry_seconds": again}


def served_hang_up(it: Served, subject: Subject, salt: str) -> Figures:
    """A client leaves a long prefill; how long until another one has its first token."""
    cold, _ = first_token(it, long_prompt(subject.lengths.prompt, f"{salt} alone"))
    it.settle()
    with Stream(it.port, long_prompt(subject.lengths.prompt, f"{salt} left"), 8) as leaver:
        read_for([leaver], LEAVE_AT * cold)
        leaver.close()
        left = time.monotonic()
        with Stream(it.port, f"{salt} stranger", 2) as stranger:
            finish([stranger], 2)
    it.settle()
    return {"free_seconds": stranger.sent + stranger.first_seconds - left}


def served_gap(it: Served, subject: Subject, salt: str) -> Figures:
    """The longest silence of a decoding stream while somebody's long prompt is computed."""
    with Stream(it.port, f"{salt} reader", 6000, **it.no_drafts) as reader:
        pump([reader], lambda: len(reader.times) >= 4, 60)
        with Stream(it.port, long_prompt(subject.lengths.prompt, f"{salt} beside"), 2) as newcomer:
            begin = len(reader.times) - 1
            pump([reader, newcomer], lambda: newcomer.over, 300)
            # The silence may not be over yet.
            now = len(reader.times)
            pump([reader], lambda: len(reader.times) > now or reader.over, 60)
    it.settle()
    if reader.over:
        raise Skipped("the reader's stream was too short")
    times = reader.times[begin:]
    return {"gap_seconds": max(b - a for a, b in pairwise(times))}


def served_edit(it: Served, subject: Subject, salt: str) -> Figures:
    """An answer that repeats its prompt; `it` serves the edit model. The first try is not
    counted: its prefill is cold."""
    del salt  # the model follows the prompt's own words
    tokens = subject.lengths.edit
    rates = [_decode(it, subject.edit_prompt, tokens, {}) for _ in range(2)]
    return {"edit_rate": rates[-1]}


# Tandem alone.


def tandem_schema(it: Tandem, subject: Subject, salt: str) -> Figures:
    """One stream that must conform to a schema, beside one that need not."""
    if not it.takes(response_format=RESPONSE_FORMAT):
        raise Skipped("response_format is refused")
    tokens = subject.lengths.decode
    fields = {"response_format": RESPONSE_FORMAT}
    with Stream(it.port, "warm", WARM_TOKENS, **fields) as stream:
        finish([stream], WARM_TOKENS)  # the grammar is compiled once
    free = _decode(it, f"{salt} free", tokens, it.no_drafts)
    bound = _decode(it, f"{salt} bound", tokens, fields)
    return {"schema_rate": bound, "schema_free_rate": free}


def tandem_draft(subject: Subject, ranks: int, salt: str) -> Figures:
    """One stream with a draft model of one layer that is always right, with one that never is,
    and without; in turns, twice. No id of the answer repeats itself, or lookups would draft."""
    if not tandem_has("--draft-model"):
        raise Skipped("tandem serve has no --draft-model")
    options = {
        "free": (),
        "right": ("--draft-model", str(subject.right_folder)),
        "wrong": ("--draft-model", str(subject.wrong_folder)),
    }
    tokens = subject.lengths.edit
    rates: dict[str, list[float]] = {name: [] for name in options}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(tandem(subject.edit_folder, ranks, *extra))
            for name, extra in options.items()
        }
        for it in servers.values():
            served_warm(it, subject, salt)
        for turn in ("one", "two"):
            for name, it in servers.items():
                rates[name].append(_decode(it, f"{salt} {turn}", tokens, {}))
    return {f"draft_{name}_rate": sum(each) / len(each) for name, each in rates.items()}


def tandem_restart(subject: Subject, ranks: int, salt: str) -> Figures:
    """A long prompt, a restart, and the same prompt again: from disk."""
    if not tandem_has("--kv-dir"):
        raise Skipped("tandem serve has no --kv-dir")
    prompt = long_prompt(subject.lengths.prompt, f"{salt} restart")
    with tempfile.TemporaryDirectory() as folder:
        options = ("--kv-dir", folder)
        with tandem(subject.folder, ranks, *options) as it:
            served_warm(it, subject, salt)
            cold, tokens = first_token(it, prompt)
            it.settle()
            _wait_saved(Path(folder), ranks, tokens * subject.kv_bytes // ranks)
        with tandem(subject.folder, ranks, *options) as it:
            served_warm(it, subject, f"{salt} again")
            again, _ = first_token(it, prompt)
    return {"restart_cold_seconds": cold, "restart_seconds": again}


def _wait_saved(folder: Path, ranks: int, size: int) -> None:
    """Return once each rank has a file of about `size` bytes, the long prompt's. Raises Skipped
    when that is not so within a minute."""

    def saved() -> bool:
        sizes = [path.stat().st_size for path in folder.rglob("*.safetensors")]
        return sum(each > 0.8 * size for each in sizes) >= ranks

    try:
        wait_until(saved, 60, "saved")
    except AssertionError as error:
        raise Skipped("nothing as long was saved to --kv-dir within 60 s") from error


# The raw loop.


def raw_warm(it: Raw, subject: Subject, salt: str) -> Figures:
    """As for the others."""
    it.ask([f"warm {salt}"], WARM_TOKENS)
    it.ask([long_prompt(subject.lengths.prompt // 10, f"warm {salt}")], WARM_TOKENS)
    return {}


def raw_decode(it: Raw, subject: Subject, salt: str) -> Figures:
    return {"decode_rate": it.ask([f"{salt} hello"], subject.lengths.decode)["rate"]}


def raw_batch(it: Raw, subject: Subject, salt: str) -> Figures:
    figures = {}
    it.ask(short_prompts(max(BATCHES), f"{salt} warm"), WARM_TOKENS)  # as for the others
    for count in BATCHES:
        said = it.ask(short_prompts(count, f"{salt} {count}"), subject.lengths.batch)
        figures[f"batch{count}_rate"] = said["tokens"] / said["seconds"]
    return figures


def raw_prefill(it: Raw, subject: Subject, salt: str) -> Figures:
    said = it.ask([long_prompt(subject.lengths.prompt, f"{salt} prefill")], 1)
    return {"prefill_rate": said["prompt_tokens"] / said["first"], "cold_seconds": said["first"]}


def raw_edit(it: Raw, subject: Subject, salt: str) -> Figures:
    del salt
    rates = [it.ask([subject.edit_prompt], subject.lengths.edit)["rate"] for _ in range(2)]
    return {"edit_rate": rates[-1]}


def first_token(it: Served, prompt: str) -> tuple[float, int]:
    """Seconds to the first token, and tokens of the prompt."""
    with Stream(it.port, prompt, 1) as stream:
        finish([stream], 1)
        return stream.first_seconds, stream.prompt_tokens


def _batch(it: Served, count: int, tokens: int, salt: str) -> float:
    """Tokens a second of `count` streams together."""
    streams = [
        Stream(it.port, content, tokens, **it.no_drafts) for content in short_prompts(count, salt)
    ]
    try:
        finish(streams, tokens)
        took = max(stream.end for stream in streams) - streams[0].sent
    finally:
        for stream in streams:
            stream.close()
    it.settle()
    return count * tokens / took


def _decode(it: Served, prompt: str, tokens: int, fields: Mapping[str, Any]) -> float:
    with Stream(it.port, prompt, tokens, **fields) as stream:
        finish([stream], tokens)
    it.settle()
    return stream.decode_rate
