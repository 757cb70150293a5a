"""Tool calls that a client demands: `tool_choice` "required", or a tool by name. Pure but for
the compiling of grammars.

The answer is constrained to one call in the model's own notation, whose layout is therefore
known to the character.
"""

from __future__ import annotations

from typing import Any

from api.ask import Chat
from api.convert.form import AnswerFormat, warning
from cluster.core.errors import Unsupported
from cluster.text import grammar
from cluster.text.tokenizer import Tokenizer

_ANY = {"type": "object"}


def forced_call(chat: Chat, tokenizer: Tokenizer) -> AnswerFormat | None:
    """The form of an answer that must be a call; None when none is demanded. Raises Unsupported
    for a model that can't be made to. Tools whose parameters can't be expressed take any object.
    """
    if chat.choice != "required":
        return None
    functions = [tool["function"] for tool in chat.tools]
    parameters = {each["name"]: each.get("parameters") or _ANY for each in functions}
    if chat.named:
        parameters = {chat.named: parameters[chat.named]}
    return _formed(parameters, tokenizer)


def _formed(parameters: dict[str, dict[str, Any]], tokenizer: Tokenizer) -> AnswerFormat:
    def written(parameters: dict[str, dict[str, Any]]) -> str:
        return grammar.tool_call(parameters, tokenizer.call_syntax, tokenizer.special_names)

    text = written(parameters)
    if not any(tokenizer.grammar_refusals([text])):
        return AnswerFormat(text, call=True)
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
    return AnswerFormat(text, call=True, warning=warning(told))
