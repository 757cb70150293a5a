"""Tool calls that a client demands: `tool_choice` "required", or a function by name. Pure but
for the compiling of grammars.

The answer is constrained to one call in the model's own notation, whose layout is therefore
known to the character; nothing has to be guessed when it is read back.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from api.convert.fields import checked
from api.convert.openai_format import AnswerFormat, warning
from api.schema.openai_chat import ChatRequest
from api.schema.openai_tools import NamedChoice, Tools
from cluster.core.errors import Interrupted, InvalidRequest, Unsupported
from cluster.core.request import Finish
from cluster.text import grammar
from cluster.text.tokenizer import Tokenizer

_ANY = {"type": "object"}
_HEAD = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call, of which the arguments may be cut off by a length."""

    name: str
    arguments: str
    """As the model wrote them: JSON, when complete."""

    def object(self) -> dict[str, Any]:
        """OpenAI's shape."""
        return {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


def forced_call(asked: ChatRequest, tokenizer: Tokenizer) -> AnswerFormat | None:
    """The form of an answer that must be a call; None when none is demanded.

    Raises InvalidRequest when tools or choice make no sense, Unsupported where the model would
    be free to call one or not. Tools whose parameters can't be expressed take any object.
    """
    choice = asked.tool_choice
    if not asked.tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice: there are no tools to call", param="tool_choice")
        return None
    if choice == "none":
        return None
    if choice in (None, "auto"):
        raise Unsupported(
            "tools with tool_choice 'auto' are not supported by this version of Tandem: "
            "tool_choice 'required', or a function by name, is",
            param="tools",
        )
    tools = checked(Tools, {"tools": asked.tools}).tools
    parameters = {tool.function.name: tool.function.parameters or _ANY for tool in tools}
    if choice != "required":
        name = checked(NamedChoice, {"tool_choice": choice}).tool_choice.function.name
        if name not in parameters:
            raise InvalidRequest(
                f"tool_choice: {name!r} is none of the tools", param="tool_choice.function.name"
            )
        parameters = {name: parameters[name]}
    return _formed(parameters, tuple(asked.tools), tokenizer)


def _formed(
    parameters: dict[str, dict[str, Any]], tools: tuple[dict[str, Any], ...], tokenizer: Tokenizer
) -> AnswerFormat:
    def written(parameters: dict[str, dict[str, Any]]) -> str:
        return grammar.tool_call(parameters, tokenizer.call_syntax, tokenizer.special_names)

    text = written(parameters)
    if not any(tokenizer.grammar_refusals([text])):
        return AnswerFormat(text, call=True, tools=tools)
    refusals = tokenizer.grammar_refusals(list(map(grammar.json_schema, parameters.values())))
    loose = [name for name, refusal in zip(parameters, refusals, strict=True) if refusal]
    text = written({**parameters, **dict.fromkeys(loose, _ANY)})
    if any(tokenizer.grammar_refusals([text])):  # all of them together are too much
        loose = list(parameters)
        text = written(dict.fromkeys(parameters, _ANY))
        (refusal,) = tokenizer.grammar_refusals([text])
        if refusal:
            raise Unsupported(f"this model can't be made to call tools: {refusal}", param="tools")
    told = f"tools: the parameters of {', '.join(loose)} are not enforced"
    return AnswerFormat(text, call=True, tools=tools, warning=warning(told))


def read_call(text: str, finish: Finish) -> Call | None:
    """The call in a whole answer; None when a length cut it off before its arguments.

    Raises Interrupted when the answer ended by itself and is no complete call.
    """
    head = _HEAD.search(text)
    if head is None:
        complete, call = False, None
    else:
        name, rest = json.loads(head[1]), text[head.end() :]
        try:
            _, end = json.JSONDecoder().raw_decode(rest)
            complete, call = True, Call(name, rest[:end])
        except ValueError:
            complete, call = False, Call(name, rest)
    if finish is Finish.STOP and not complete:
        raise Interrupted("the answer is incomplete: it should be a tool call and is none")
    return call
