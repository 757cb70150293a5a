"""What clients send to /tokenize and /detokenize: llama.cpp's and vLLM's fields."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class _Shape(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )


class TokenizeRequest(_Shape):
    """A text, as `content` or `prompt`, or a conversation."""

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    """The same, by vLLM's name."""
    messages: Any = None
    """As /v1/chat/completions has them; rendered as they would be there."""
    tools: Any = None
    """As /v1/chat/completions has them."""
    chat_template_kwargs: Any = None
    """As /v1/chat/completions has them."""
    add_special: bool | None = None
    """True is refused: no special tokens are added to a text that is completed either."""
    add_special_tokens: bool | None = None
    """The same, by vLLM's name."""
    with_pieces: bool | None = None
    """Tell each token's text too, as `token_strs`."""
    return_token_strs: bool | None = None
    """The same, by vLLM's name."""


class DetokenizeRequest(_Shape):
    """Some tokens."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
