"""The shapes of what Tandem's own endpoints answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.schema.answers import Answer, ChatCompletion, OpenAIModels
from cluster.core import facts
from cluster.core.request import Phase
from cluster.core.view import ClusterView, MemberView, ModelView, PlacementView


class Lookup(BaseModel):
    """Which conversations are asked for."""

    conversation_ids: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1024)]


class StreamState(Answer):
    """What is known of one conversation's stream."""

    conversation_id: str
    is_done: bool
    total_bytes: int
    earliest_offset: int
    started_at: float
    completed_at: float
    """0 while it runs."""


class BenchStep(Answer):
    """One step that computed for the request."""

    kind: Literal["prefill", "decode"]
    tokens: int
    seconds: list[float]
    """On each rank."""


class BenchReport(Answer):
    """How the first choice was computed; times in seconds, speeds in tokens per second. A speed
    is null where there was nothing to measure."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_seconds: float | None
    """From submission to the first token."""
    prompt_tokens_per_second: float | None
    """Of prompt tokens that no cache held."""
    generation_tokens_per_second: float | None
    """Of tokens after the first."""
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    ranks: int
    peak_memory_bytes: int
    """Most that a rank has used at once."""
    steps: list[BenchStep]
    """The latest steps."""


class BenchCompletion(ChatCompletion):
    """A chat completion, and how it was computed."""

    bench: BenchReport


class Models(OpenAIModels):
    """All models, as OpenAI has them and with all that is known of them."""

    models: list[ModelView]
    keep_alive_seconds: float | None = None
    """Without a request, after which a model that was loaded for one is unloaded."""


class Tokens(Answer):
    """The ids of a text."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] = Field(default_factory=list)
    """Each token's text, where asked for; parts of a character show as U+FFFD."""


class TokenText(Answer):
    """The text of some ids."""

    prompt: str
    content: str
    """The same."""


class Cancelled(Answer):
    """A request that was ended."""

    id: str
    cancelled: Literal[True]


class LiveRequest(Answer):
    """One request that is under way."""

    id: str
    """As its answer has it; /v1/cancel/{id} ends it."""
    dialect: str
    key: str
    """Name of the API key; empty where none is needed."""
    phase: Phase
    prompt_tokens: int
    prefilled: int
    """Of the prompt, cached tokens included."""
    generated: int
    cached_tokens: int
    tokens_per_second: float
    """Since its first token; 0 before the second."""
    age_seconds: float


class LiveRequests(Answer):
    """Some of what is under way, the oldest first."""

    total: int
    """Of those that match and that the key may see: its own, or with --operator all."""
    offset: int
    all_visible: bool
    """The key may see the requests of all."""
    phases: dict[Phase, int]
    """How many there are of all keys."""
    requests: list[LiveRequest]


Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
"""Two numbers. As a tuple it would be "prefixItems", which schemathesis misreads."""


class History(Answer):
    """Samples of the last hour, the oldest first: one list for each field. Null where there was
    nothing to measure."""

    every_seconds: float
    now: float
    """Seconds since the server started, as `at`."""
    number: list[int]
    """Grows by one; for ?after=."""
    at: list[float]
    epoch: list[int]
    """0 between epochs."""
    decode_tokens_per_second: list[float]
    prefill_tokens_per_second: list[float]
    queued: list[int]
    running: list[int]
    first_token_seconds: list[Pair | None]
    """Median and 95th percentile, from submission."""
    inter_token_seconds: list[Pair | None]
    """The same from one token to the next."""
    cached_share: list[float | None]
    """Of prompt tokens, those that a cached prefix held."""
    step_seconds: list[list[float | None]]
    """By rank: mean time of a decode step by its own clock, waits for other ranks included."""
    read_bytes_per_second: list[list[float | None]]
    """By rank: how fast it read its own weights, alone; measured every 256 steps."""


class TraceFile(Answer):
    """What Perfetto opens: Chrome's trace events."""

    displayTimeUnit: Literal["ms"]  # noqa: N815 - the format's names
    otherData: dict[str, Any]  # noqa: N815
    traceEvents: list[dict[str, Any]]  # noqa: N815


class HealthAnswer(Answer):
    """Whether the cluster makes progress."""

    status: Literal["ok", "unhealthy"]
    reason: str


# What the coordinator tells of is answered field by field.
Cluster = ClusterView
Member = MemberView
Survey = facts.Survey
Model = ModelView
Placement = PlacementView
