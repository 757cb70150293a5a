"""The items of OpenAI's responses: as clients send them, as they are stored and listed, and as
turns of a conversation. Pure.

    message, reasoning, function_call, function_call_output    understood
    custom_tool_call, local_shell_call and their outputs       taken for calls of a function
    web_search_call and the like                               left out: their results are not
                                                               in them
    item_reference                                             an item of a stored response
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from api.ask import Message
from api.convert.openai_chat import call_message
from api.schema.openai_responses import Item, ItemPart
from cluster.core.errors import InvalidRequest, Unsupported

StoredItem = dict[str, Any]
"""An item in OpenAI's own form, with an id; never changed once it is made."""

LEFT_OUT = frozenset(
    ("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call")
)
_TEXT_TYPES = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text"))
_CALLS = {"function_call", "custom_tool_call", "local_shell_call"}
_OUTPUTS = {"function_call_output", "custom_tool_call_output", "local_shell_call_output"}


def stored_item(
    item: Item, where: str, new_id: str, referred: Callable[[str], StoredItem]
) -> StoredItem | None:
    """The item in its stored form, under its own id or `new_id`; None for one that is left out.

    `where` is its place in the request, for errors. Raises InvalidRequest for one that lacks
    something, Unsupported for a type that is not understood.
    """
    kind = item.type or ("item_reference" if item.role is None and item.id else "message")
    if kind == "message":
        return _message(item, where, item.id or f"msg_{new_id}")
    if kind == "reasoning":
        return _reasoning(item, where, item.id or f"rs_{new_id}")
    if kind in _CALLS:
        return _call(item, kind, where, item.id or f"fc_{new_id}")
    if kind in _OUTPUTS:
        # Older clients give what a shell has said under the call's id.
        call = item.call_id or (item.id if kind == "local_shell_call_output" else None)
        return {
            "id": item.id or f"fco_{new_id}",
            "type": "function_call_output",
            "call_id": _needed(call, f"{where}.call_id"),
            "output": _text(_needed(item.output, f"{where}.output"), f"{where}.output"),
            "status": "completed",
        }
    if kind == "item_reference":
        return referred(_needed(item.id, f"{where}.id"))
    if kind in LEFT_OUT:
        return None
    raise Unsupported(
        f"{where}.type: items of the type {kind[:100]!r} are not supported by this version of "
        "Tandem",
        param=f"{where}.type",
    )


def _needed(value: Any, param: str) -> Any:
    if value is None:
        raise InvalidRequest(f"{param}: field required", param=param)
    return value


def _text(parts: Sequence[ItemPart], where: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        place = f"{where}[{index}]"
        if part.type == "refusal":
            texts.append(_needed(part.refusal, f"{place}.refusal"))
        elif part.type in _TEXT_TYPES:
            texts.append(_needed(part.text, f"{place}.text"))
        else:
            raise Unsupported(
                f"{place}: content of the type {part.type[:100]!r} is not supported; this "
                "version of Tandem reads text",
                param=place,
            )
    return "".join(texts)


def _message(item: Item, where: str, item_id: str) -> StoredItem:
    role = _needed(item.role, f"{where}.role")
    text = _text(_needed(item.content, f"{where}.content"), f"{where}.content")
    if role == "assistant":
        return message_item(item_id, text, "completed")
    content = [{"type": "input_text", "text": text}]
    return {
        "id": item_id,
        "type": "message",
        "role": role,
        "status": "completed",
        "content": content,
    }


def _reasoning(item: Item, where: str, item_id: str) -> StoredItem:
    content = _text(item.content or (), f"{where}.content")
    summary = _text(item.summary or (), f"{where}.summary")
    return reasoning_item(item_id, content, summary, "completed")


def _call(item: Item, kind: str, where: str, item_id: str) -> StoredItem:
    name: Any
    arguments: Any
    match kind:
        case "custom_tool_call":
            name, arguments = item.name, {"input": _needed(item.input, f"{where}.input")}
        case "local_shell_call":
            name, arguments = "local_shell", _needed(item.action, f"{where}.action")
        case _:
            name, arguments = item.name, _needed(item.arguments, f"{where}.arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    call_id = _needed(item.call_id, f"{where}.call_id")
    return call_item(item_id, call_id, _needed(name, f"{where}.name"), arguments, "completed")


def message_item(
    item_id: str, text: str, status: str, logprobs: Sequence[dict[str, Any]] = ()
) -> StoredItem:
    """What the assistant says."""
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [output_text(text, logprobs)],
    }


def output_text(text: str, logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The content of what the assistant says."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def reasoning_item(item_id: str, content: str, summary: str, status: str) -> StoredItem:
    """What the assistant says to itself; an empty text is no part at all."""
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": summary}] if summary else [],
        "content": [{"type": "reasoning_text", "text": content}] if content else [],
        "encrypted_content": None,
        "status": status,
    }


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> StoredItem:
    """A call that the assistant makes; `arguments` is JSON."""
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def messages_of(instructions: str | None, items: Sequence[StoredItem]) -> tuple[Message, ...]:
    """A conversation as templates take it.

    What the assistant thinks, says and calls one after the other is one turn. Instructions and
    the system messages at the beginning are one message: many templates take no second one.
    """
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    names: dict[str, str] = {}
    for item in items:
        match item["type"]:
            case "reasoning":
                if thought := _joined(item["content"]) or _joined(item["summary"]):
                    turn = _turn(messages, unless=("content", "tool_calls", "reasoning_content"))
                    turn["reasoning_content"] = thought
            case "function_call":
                names[item["call_id"]] = item["name"]
                call = call_message(item["call_id"], item["name"], item["arguments"])
                _turn(messages, unless=()).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                said: Message = {
                    "role": "tool",
                    "content": item["output"],
                    "tool_call_id": item["call_id"],
                }
                if name := names.get(item["call_id"]):
                    said["name"] = name
                messages.append(said)
            case _:
                _say(messages, item["role"], _joined(item["content"]))
    return tuple(messages)


def _joined(parts: Sequence[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)


def _say(messages: list[Message], role: str, text: str) -> None:
    role = "system" if role == "developer" else role
    if role == "assistant":
        _turn(messages, unless=("content", "tool_calls"))["content"] = text
    elif role == "system" and len(messages) == 1 and messages[0]["role"] == "system":
        messages[0]["content"] += f"\n\n{text}"
    else:
        messages.append({"role": role, "content": text})


def _turn(messages: list[Message], unless: tuple[str, ...]) -> Message:
    """The assistant's turn that goes on, or a new one if it has any of `unless` already."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or any(last.get(field) for field in unless):
        last = {"role": "assistant", "content": ""}
        messages.append(last)
    return last
