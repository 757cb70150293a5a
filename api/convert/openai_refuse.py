"""Parameters of OpenAI's paths that are understood and not possible, refused by name.

Ignoring them would answer another question than the one asked. Values that ask for nothing
(null, an empty list, the default) pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from api.schema.openai_chat import ChatMessage, ChatRequest
from api.schema.openai_common import Shape
from cluster.core.errors import InvalidRequest, Unsupported

_NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})


Harmless = Callable[[Any], bool]
"""Whether a value asks for nothing."""


def asks_nothing(value: Any) -> bool:
    """Whether it is null, or as good as that."""
    return value in _NOTHING


def one_of(*harmless: Any) -> Harmless:
    """Null, and these, ask for nothing."""
    return lambda value: value is None or value in harmless


_HARMLESS: dict[str, Harmless] = {
    "functions": asks_nothing,
    "function_call": one_of("none", "auto"),
    "modalities": one_of([], ["text"]),
    "audio": asks_nothing,
    "prediction": asks_nothing,
    "web_search_options": one_of(),
    "stop_token_ids": asks_nothing,
}

_MESSAGE_FIELDS = ("function_call", "audio")


def refuse_unsupported(asked: ChatRequest) -> None:
    """Raise Unsupported for the first parameter that this version can't honour."""
    refuse_fields(asked, _HARMLESS)
    for index, message in enumerate(asked.messages):
        _refuse_in_message(message, f"messages[{index}]")


def refuse_fields(asked: Shape, fields: Mapping[str, Harmless]) -> None:
    """Raise Unsupported for the first of `fields` that asks for something."""
    for name, harmless in fields.items():
        if not harmless(getattr(asked, name)):
            raise Unsupported(f"{name} is not supported by this version of Tandem", param=name)


def _refuse_in_message(message: ChatMessage, where: str) -> None:
    if message.role == "function":
        raise Unsupported(
            f"{where}.role: messages with the role {message.role!r} are not supported by this "
            "version of Tandem",
            param=f"{where}.role",
        )
    for name in _MESSAGE_FIELDS:
        if not asks_nothing(getattr(message, name)):
            raise Unsupported(
                f"{where}.{name} is not supported by this version of Tandem",
                param=f"{where}.{name}",
            )
    for index, part in enumerate(message.content or []):
        place = f"{where}.content[{index}]"
        if part.type != "text":
            raise Unsupported(
                f"{place}: content of the type {part.type!r} is not supported; this version of "
                "Tandem reads text",
                param=place,
            )
        if part.text is None:
            raise InvalidRequest(f"{place}.text: field required", param=f"{place}.text")
