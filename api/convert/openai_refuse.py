"""Parameters of /v1/chat/completions that are understood and not possible, refused by name.

Ignoring them would answer another question than the one asked. Values that ask for nothing
(null, an empty list, the default) pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.schema.openai_chat import ChatMessage, ChatRequest
from cluster.core.errors import InvalidRequest, Unsupported

_NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})


def _asks_nothing(value: Any) -> bool:
    return value in _NOTHING


def _one_of(*harmless: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or value in harmless


_HARMLESS: dict[str, Callable[[Any], bool]] = {
    "functions": _asks_nothing,
    "function_call": _one_of("none", "auto"),
    "modalities": _one_of([], ["text"]),
    "audio": _asks_nothing,
    "prediction": _asks_nothing,
    "web_search_options": _one_of(),
    "stop_token_ids": _asks_nothing,
}

_MESSAGE_FIELDS = ("function_call", "audio")


def refuse_unsupported(asked: ChatRequest) -> None:
    """Raise Unsupported for the first parameter that this version can't honour."""
    for name, harmless in _HARMLESS.items():
        if not harmless(getattr(asked, name)):
            raise Unsupported(f"{name} is not supported by this version of Tandem", param=name)
    for index, message in enumerate(asked.messages):
        _refuse_in_message(message, f"messages[{index}]")


def _refuse_in_message(message: ChatMessage, where: str) -> None:
    if message.role == "function":
        raise Unsupported(
            f"{where}.role: messages with the role {message.role!r} are not supported by this "
            "version of Tandem",
            param=f"{where}.role",
        )
    for name in _MESSAGE_FIELDS:
        if not _asks_nothing(getattr(message, name)):
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
