"""/bench/chat/completions: OpenAI's chat completions, and a report of how they were computed.

Pure, but that the dialect looks at the cluster for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from api.ask import Ask
from api.convert.fields import checked
from api.convert.openai_chat import ChatWriter, OpenAIChat, as_line
from api.dialect import Choice, Reply, event
from api.schema.bench import BenchRequest
from cluster.core.request import StepTiming
from cluster.core.view import ClusterView

_DONE = event("[DONE]")


class BenchChat(OpenAIChat):
    """POST /bench/chat/completions, as an `api.dialect.Dialect`."""

    name = "Tandem bench"
    prefix = "bench"

    def __init__(self, view: Callable[[str], ClusterView]) -> None:
        """`view` looks at a model's first group."""
        self._view = view

    def read(self, body: dict[str, Any]) -> Ask:
        """See Dialect."""
        fields = checked(BenchRequest, body)
        ask = super().read(body)
        return replace(ask, cache=fields.use_prefix_cache is not False, record_steps=True)

    def whole(self, reply: Reply, choices: Sequence[Choice]) -> dict[str, Any]:
        """See Dialect."""
        return {**super().whole(reply, choices), "bench": report(reply, self._view(reply.model))}

    def writer(self, reply: Reply) -> BenchWriter:
        """See Dialect."""
        return BenchWriter(reply, self._view)


class BenchWriter(ChatWriter):
    """As ChatWriter, with the report in a last chunk of its own."""

    def __init__(self, reply: Reply, view: Callable[[str], ClusterView]) -> None:
        super().__init__(reply)
        self._view = view

    def end(self) -> str:
        """See Writer."""
        made = report(self._reply, self._view(self._reply.model))
        chunk = event(as_line({**self._base, "choices": [], "bench": made}))
        return super().end().removesuffix(_DONE) + chunk + _DONE


def report(reply: Reply, view: ClusterView) -> dict[str, Any]:
    """How the first of the choices was computed. A speed is null where there was nothing to
    measure: it is of prompt tokens that no cache held, and of tokens after the first."""
    first = reply.choices.first
    usage, timing = first.usage, first.timing
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "ttft_seconds": timing.first_token,
        "prompt_tokens_per_second": _rate(
            usage.prompt_tokens - usage.cached_tokens, timing.prefill
        ),
        "generation_tokens_per_second": _rate(usage.completion_tokens - 1, timing.decode),
        "queue_seconds": timing.queued,
        "prefill_seconds": timing.prefill,
        "decode_seconds": timing.decode,
        "total_seconds": timing.total,
        "ranks": view.world,
        "peak_memory_bytes": max((rank.peak_bytes for rank in view.ranks), default=0),
        "steps": [_step(step) for step in first.steps],
    }


def _step(step: StepTiming) -> dict[str, Any]:
    return {"kind": step.kind, "tokens": step.tokens, "seconds": list(step.seconds)}


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens > 0 and seconds > 0 else None
