"""What a client asks for, in no dialect: the one request that every dialect is converted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.core.sampling import Sampling

Message = dict[str, Any]
"""One turn as chat templates take it: `role` (system, user, assistant, tool), `content` (text),
and where they apply `tool_calls` ([{"id", "type", "function": {"name", "arguments": {...}}}]),
`reasoning_content`, `tool_call_id`, `name`."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that is to be continued."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    """As OpenAI has them: {"type": "function", "function": {"name", "description",
    "parameters"}}; already checked by `api.convert.tools.check_tools`."""
    choice: str = "auto"
    """"none", "auto" (the model decides) or "required"."""
    named: str = ""
    """With "required": the one tool that must be called; empty for any."""
    thinking: bool | None = None
    """Whether the model is to reason first, where its template can be told; None for its own
    habit."""
    prefill: str = ""
    """What the answer begins with: already said, and no part of what is generated."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A form that the answer must have."""

    param: str
    """The client's field, for errors."""
    kind: str
    """"json" (a schema), "json_object", "regex", "choice" or "grammar"."""
    value: Any = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. Ranges are checked by the dialect's shape, what needs the model is not."""

    prompt: Chat | str | tuple[int, ...]
    """A conversation, or text or token ids to be continued as they are."""
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    """Its seed and logit_bias are those below."""
    seed: int | None = None
    """Any integer; None for a random one."""
    logit_bias: Mapping[str, float] = field(default_factory=dict)
    """By token id, in decimal."""
    n: int = 1
    """Answers wanted, side by side."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each; None for no logprobs."""
    usage: bool = False
    """A stream tells its usage, where that is the client's choice."""
    wish: Wish | None = None
    cache: bool = True
    """False: computed from its first token on, and not kept."""
    record_steps: bool = False
    keep_alive: float | None = None
    """Seconds for which its model is kept loaded after it, infinite for ever; None for what the
    server was told."""
    prompt_param: str = "messages"
    """The client's field that the prompt came from, for errors."""
