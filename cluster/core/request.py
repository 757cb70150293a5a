"""One request, whatever dialect it came in, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.core.ids import RequestId
from cluster.core.sampling import Sampling
from cluster.core.timeline import Timeline


class Phase(StrEnum):
    """Where a live request is."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    DRAINING = "draining"
    """Over for the client; its slot is not yet released on every rank."""


class Finish(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    """The model ended its turn, or a stop string came."""
    LENGTH = "length"
    """max_tokens or the context is used up."""
    CANCELLED = "cancelled"
    """The client left, or asked for it."""
    FAILED = "failed"
    """It could not be completed; an error says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the scheduler needs to know; all checks are behind it."""

    id: RequestId
    prompt: tuple[int, ...]
    max_tokens: int
    """At most this many new tokens; already clamped to what the context leaves."""
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    """Ids that end the answer and are no part of its text."""
    scope: str = ""
    """Only prefixes computed under the same scope are reused (one per API key)."""
    deadline: float | None = None
    """By this time on the coordinator's clock it must be done, or it is cancelled."""
    min_tokens: int = 0
    """No end id is sampled before the answer has so many tokens."""
    logprobs: int | None = None
    """How many of the likeliest ids are reported with each token; None for no report."""
    grammar: str = ""
    """What the answer must conform to, as llguidance takes it; empty for anything."""
    draft: int = 0
    """At most so many ids are drafted in one iteration; 0 for none."""
    cache: bool = True
    """False: no cached prefix is used, and none is kept."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request, equal in every dialect."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that were not computed because a cached prefix held them."""
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the parts of one request have taken, in seconds; 0 for what is not over yet."""

    queued: float
    """From submission until it got a slot, or ended without one."""
    prefill: float
    """From the slot until the first token was delivered, or until it ended without one."""
    decode: float
    """From the first token until the last one so far."""
    total: float
    """From submission until it ended; 0 while it runs."""
    first_token: float | None
    """Seconds after submission at which the first token was delivered; None before that."""


@dataclass(frozen=True, slots=True)
class StepTiming:
    """One step that computed for a request, perhaps among others."""

    kind: str
    """"prefill" for a chunk of its prompt, "decode" for iterations."""
    seconds: tuple[float, ...]
    """What its chunk, or the iterations for all rows of the step, took on each rank by its own
    clock; rank 0 first."""
    tokens: int
    """Prompt tokens of the chunk, or tokens that the iterations gave it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a live request is; what signs of life and `tandem status` show."""

    phase: Phase
    prompt_tokens: int
    prefilled: int
    """Prompt positions whose cache is filled, reused ones included."""
    generated: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a dialect turns a client's request into."""

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int | None = None
    """None: as much as the context leaves."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings; they are no part of its text."""
    min_tokens: int = 0
    """As in Request."""
    ignore_eos: bool = False
    """End ids are tokens like others: the answer goes on to max_tokens."""
    logprobs: int | None = None
    """As in Request."""
    grammar: str = ""
    """As in Request."""
    scope: str = ""
    markers: bool = False
    """Special tokens that mark reasoning and tool calls are shown in the text."""
    cache: bool = True
    """As in Request."""
    record_steps: bool = False
    """A StepTiming is kept of each step that computes for it."""
    timeline: Timeline | None = None
    """What happens to it is noted there; None for one that is not traced."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of the answer and how likely it was, with the likeliest others."""

    token: str
    """Its text; parts of a character show as U+FFFD."""
    data: bytes
    """Its bytes."""
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of the answer, as it comes."""

    text: str
    """May be empty: the text of a token can be held back."""
    tokens: int
    """How many tokens it stands for."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token when asked for, an end id excepted."""
