"""What /bench/chat/completions takes beside the fields of /v1/chat/completions."""

from __future__ import annotations

from api.schema.openai_chat import ChatRequest


class BenchRequest(ChatRequest):
    """A chat completion that is measured."""

    use_prefix_cache: bool | None = None
    """False: the whole prompt is computed, and none of it is kept."""
