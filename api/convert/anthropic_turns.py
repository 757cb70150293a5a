"""Anthropic's conversations, made of content blocks, as chat templates take them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from api.ask import Message
from api.convert.openai_chat import call_message
from api.schema.anthropic import Block, TextBlock, Turn
from cluster.core.errors import InvalidRequest, Unsupported

_BELONGS = {
    "tool_use": "assistant",
    "thinking": "assistant",
    "redacted_thinking": "assistant",
    "tool_result": "user",
}
"""In whose turns a block may be; text may be in all."""

_BILLING = re.compile(r"\A\s*x-anthropic-billing-header:[^\n]*\n*")


def without_billing(text: str) -> str:
    """A system prompt, or a block of it, without the line for accounting that Claude Code puts
    first: it changes with every request, so that no cached prefix would ever fit."""
    return _BILLING.sub("", text)


def conversation(
    system: Sequence[TextBlock], turns: Sequence[Turn]
) -> tuple[tuple[Message, ...], str]:
    """The messages, and with what the answer begins: the text of an assistant's turn that comes
    last. Raises RequestError for blocks that make no sense or can't be read."""
    said = "".join(map(without_billing, _texts(system, "system")))
    messages: list[Message] = [{"role": "system", "content": said}] if said else []
    names: dict[str, str] = {}
    for index, turn in enumerate(turns):
        where = f"messages[{index}]"
        last = index == len(turns) - 1
        _check(turn, where, may_be_empty=last and turn.role == "assistant")
        if turn.role == "assistant":
            if last:
                return tuple(messages), _prefill(turn, where)
            names.update({block.id or "": block.name or "" for block in turn.content})
            messages.append(_assistant(turn))
        else:
            _add(messages, turn, names, where)
    return tuple(messages), ""


def _check(turn: Turn, where: str, *, may_be_empty: bool) -> None:
    """Every block is of a kind that this turn can have, and has the fields of its kind."""
    if not turn.content and not may_be_empty:
        raise InvalidRequest(f"{where}.content: should not be empty", param=f"{where}.content")
    for index, block in enumerate(turn.content):
        place = f"{where}.content[{index}]"
        _check_block(block, place)
        if _BELONGS.get(block.type, turn.role) != turn.role:
            raise InvalidRequest(
                f"{place}.type: {block.type!r} can't be in a turn with the role {turn.role!r}",
                param=f"{place}.type",
            )


_FIELDS = {
    "text": ("text",),
    "thinking": ("thinking",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
}
"""What a block must have."""


def _check_block(block: Block | TextBlock, place: str, *, only_text: bool = False) -> None:
    known = block.type == "text" or (
        not only_text and (block.type in _FIELDS or block.type == "redacted_thinking")
    )
    if not known:
        raise Unsupported(
            f"{place}: content of the type {block.type!r} is not supported; this version of "
            "Tandem reads text",
            param=place,
        )
    for name in _FIELDS.get(block.type, ()):
        if getattr(block, name) is None:
            raise InvalidRequest(f"{place}.{name}: field required", param=f"{place}.{name}")


def _texts(blocks: Sequence[TextBlock], where: str) -> list[str]:
    for index, block in enumerate(blocks):
        _check_block(block, f"{where}[{index}]", only_text=True)
    return [block.text or "" for block in blocks]


def _text(turn: Turn) -> str:
    return "".join(block.text or "" for block in turn.content if block.type == "text")


def _assistant(turn: Turn) -> Message:
    made: Message = {"role": "assistant", "content": _text(turn)}
    # A redacted thought can be read by those who made it only.
    thoughts = [block.thinking or "" for block in turn.content if block.type == "thinking"]
    if thought := "".join(thoughts):
        made["reasoning_content"] = thought
    calls = [
        call_message(block.id or "", block.name or "", block.input)
        for block in turn.content
        if block.type == "tool_use"
    ]
    if calls:
        made["tool_calls"] = calls
    return made


def _add(messages: list[Message], turn: Turn, names: dict[str, str], where: str) -> None:
    """A user's turn: what tools have answered, one message each, and then what the user says.

    Users' turns in a row are one, as Anthropic has it; many templates refuse them.
    """
    for index, block in enumerate(turn.content):
        if block.type == "tool_result":
            messages.append(_result(block, names, f"{where}.content[{index}]"))
    if all(block.type == "tool_result" for block in turn.content):
        return
    said = _text(turn)
    if turn.role == "user" and messages and messages[-1]["role"] == "user":
        said = f"{messages.pop()['content']}\n{said}"
    messages.append({"role": turn.role, "content": said})


def _result(block: Block, names: dict[str, str], place: str) -> Message:
    said = "".join(_texts(block.content or (), f"{place}.content"))
    called = block.tool_use_id or ""
    # Templates have no mark for a failure; what tools say of it is said as it is.
    made: Message = {"role": "tool", "content": said or ("error" if block.is_error else "")}
    made["tool_call_id"] = called
    if name := names.get(called):
        made["name"] = name
    return made


def _prefill(turn: Turn, where: str) -> str:
    """The text of the last turn, which the answer continues."""
    kinds = {block.type for block in turn.content}
    if "tool_use" in kinds:
        raise InvalidRequest(
            f"{where}: its tool_use blocks have no tool_result in a turn after it", param=where
        )
    if kinds - {"text"}:
        raise Unsupported(
            f"{where}: the last turn is the assistant's, to be continued, and this version of "
            "Tandem can't continue one with thinking blocks",
            param=where,
        )
    said = _text(turn)
    if said != said.rstrip():
        raise InvalidRequest(
            f"{where}.content: a turn that is to be continued can't end in white space",
            param=f"{where}.content",
        )
    return said
