"""What a run comes to: a document from which every figure and picture can be made again.

All times are seconds; those of a request count from the beginning of its level.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from cluster.bench.load import Load
from cluster.bench.prompts import Calibration
from cluster.core.errors import BadConfiguration

FORMAT = "tandem-bench"
VERSION = 1
"""Of the document; raised when a reader of an older one would misread it."""

Status = Literal["ok", "cancelled", "failed", "unfinished"]
"""`cancelled`: its client hung up on purpose. `unfinished`: the run was ended before it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: what was asked, and when what came."""

    session: int
    turn: int
    planned: float
    """When it was due: its arrival in an open loop, else when its client was free."""
    sent: float
    """When its client began to send it; later than planned where the client was late."""
    end: float
    """When the last of it came, or it was given up."""
    status: Status
    asked_prompt: int
    """Tokens that its turn was to add to the prompt."""
    asked_output: int
    first: float | None = None
    """When the first piece of the answer came."""
    gaps: tuple[float, ...] = ()
    """Seconds from each piece to the next: one fewer than pieces. Empty where too many were
    measured to keep them."""
    last: float | None = None
    """When the last piece came."""
    prompt_tokens: int | None = None
    """As the server counted them; None where it does not."""
    cached_tokens: int | None = None
    """Of those, how many it did not have to compute."""
    output_tokens: int = 0
    counted: bool = False
    """`output_tokens` are as the server counted them; else each piece counts as one."""
    finish: str | None = None
    error: str | None = None
    """A word to count failures by: connect, timeout, hung_up, http_429, ..."""
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """How well this program kept up while a level ran."""

    cpu: float = 0.0
    """Share of one core that it used."""
    lag: float = 0.0
    """99 of 100 times its loop was late by less than this."""


@dataclass(frozen=True, slots=True)
class Level:
    """All requests of one load."""

    load: Load
    window: float
    """Seconds over which rates are taken, from 0. What is still under way then is waited for,
    and counts for latencies alone."""
    requests: tuple[Request, ...]
    client: Client = field(default_factory=Client)
    began: float = 0.0
    """Unix time, to find it in a server's log."""


@dataclass(frozen=True, slots=True)
class Slo:
    """What a good answer is, in seconds; None where it does not matter."""

    ttft: float | None = None
    itl: float | None = None
    e2e: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a run, as they were given."""

    prompt: str
    output: str
    prefix: int
    turns: int
    think: float
    cancel: float
    seed: int
    seconds: float | None
    requests: int | None
    warmup: int
    timeout: float
    temperature: float | None
    fields: dict[str, Any]
    """What every request's body had besides messages, model and stream."""
    slo: Slo = Slo()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `tandem bench`."""

    started: str
    """ISO 8601, UTC."""
    url: str
    model: str
    environment: dict[str, str]
    """Of the client: versions, platform, cores."""
    nonce: str
    calibration: Calibration
    asked: Asked
    levels: tuple[Level, ...]
    interrupted: bool = False
    warnings: tuple[str, ...] = ()
    format: str = FORMAT
    version: int = VERSION


RUN: TypeAdapter[Run] = TypeAdapter(Run)


def to_json(run: Run, summaries: list[dict[str, Any]]) -> str:
    """The document. `summaries`, one for each level, are there for other programs: a reader
    works them out anew."""
    document = asdict(run)
    for level, summary in zip(document["levels"], summaries, strict=True):
        level["summary"] = summary
        for request in level["requests"]:
            request["gaps"] = [round(gap, 6) for gap in request["gaps"]]
    return json.dumps(_rounded(document)) + "\n"


def _rounded(value: Any) -> Any:
    """Microseconds are more than anyone can measure here."""
    match value:
        case float():
            return round(value, 6)
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value


def from_json(text: str, name: str) -> Run:
    """Raises BadConfiguration when it is no such document, or one of a later version."""
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise BadConfiguration(f"{name} is no result of `tandem bench --out`")
        if raw.get("version") != VERSION:
            raise BadConfiguration(
                f"{name} has version {raw.get('version')} of the format, this command reads "
                f"{VERSION}: use the tandem that wrote it"
            )
        return RUN.validate_python(raw)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BadConfiguration(f"{name} is damaged at {where}") from error
    except ValueError as error:
        raise BadConfiguration(f"{name} is no JSON: {error}") from error
