"""OpenAI's responses: how a request is read. Pure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from api.ask import Ask, Chat, Wish
from api.convert.fields import checked
from api.convert.form import as_object
from api.convert.openai_refuse import Harmless, asks_nothing, refuse_fields
from api.convert.openai_responses_items import StoredItem, messages_of, stored_item
from api.convert.openai_responses_tools import AskedTools, tools_of
from api.convert.openai_sampling import sampling_of
from api.schema.openai_responses import ResponsesRequest
from cluster.core.errors import InvalidRequest

LOGPROBS = "message.output_text.logprobs"
"""The value of `include` that asks for logprobs."""

_HARMLESS: dict[str, Harmless] = {
    "conversation": asks_nothing,
    "prompt": asks_nothing,
    "stop_token_ids": asks_nothing,
}


class Earlier(Protocol):
    """The stored responses of one owner, as far as requests may refer to them."""

    def conversation(self, response_id: str) -> Sequence[StoredItem]:
        """All that was said up to the end of a response; raises NotFound, or InvalidRequest for
        one that still runs."""
        ...

    def item(self, item_id: str) -> StoredItem:
        """One item of any of them; raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class ResponsesAsk(Ask):
    """A request, with what its response tells of it and what becomes of that."""

    told: dict[str, Any] = field(default_factory=dict)
    """The fields that the response repeats."""
    items: tuple[StoredItem, ...] = ()
    """Its own input, without that of earlier turns."""
    size: int = 0
    """Bytes of `items` and `told`, about."""
    previous: str | None = None
    """The response that it goes on from."""
    store: bool = True
    background: bool = False
    summarized: bool = False
    """Reasoning is told as a summary."""
    warning: str = ""
    """What was asked for and is not done."""


def read_responses(body: dict[str, Any], earlier: Earlier) -> ResponsesAsk:
    """Raises RequestError that names the offending field."""
    asked = checked(ResponsesRequest, body)
    refuse_fields(asked, _HARMLESS)
    store = asked.store is not False
    if asked.background and not store:
        raise InvalidRequest(
            "background: such a response is fetched from the store, so store can't be false",
            param="background",
        )
    tools = tools_of(asked)
    items = _items(asked, earlier)
    before = earlier.conversation(asked.previous_response_id) if asked.previous_response_id else ()
    messages = messages_of(asked.instructions, [*before, *items])
    told = _told(asked, tools, store)
    return ResponsesAsk(
        Chat(messages, tools.tools, tools.choice, tools.named, _thinking(asked)),
        model=asked.model,
        stream=bool(asked.stream),
        max_tokens=asked.max_output_tokens,
        min_tokens=asked.min_tokens or 0,
        stop=tuple(asked.stop or ()),
        ignore_eos=bool(asked.ignore_eos),
        sampling=sampling_of(asked),
        seed=asked.seed,
        logit_bias=asked.logit_bias or {},
        logprobs=_logprobs(asked),
        wish=_wish(asked),
        usage=True,
        prompt_param="input",
        told=told,
        items=items,
        size=len(json.dumps([items, told])),
        previous=asked.previous_response_id or None,
        store=store,
        background=bool(asked.background),
        summarized=bool(asked.reasoning and asked.reasoning.summary),
        warning=tools.warning,
    )


def _items(asked: ResponsesRequest, earlier: Earlier) -> tuple[StoredItem, ...]:
    new = secrets.token_hex(12)
    made = (
        stored_item(item, f"input[{index}]", f"{new}{index:04x}", earlier.item)
        for index, item in enumerate(asked.input)
    )
    return tuple(item for item in made if item is not None)


def _thinking(asked: ResponsesRequest) -> bool | None:
    options = asked.chat_template_kwargs
    if options is not None and options.enable_thinking is not None:
        return options.enable_thinking
    effort = asked.reasoning and asked.reasoning.effort
    return None if effort is None else effort != "none"


def _logprobs(asked: ResponsesRequest) -> int | None:
    if asked.top_logprobs or LOGPROBS in (asked.include or ()):
        return asked.top_logprobs or 0
    return None


def _wish(asked: ResponsesRequest) -> Wish | None:
    if asked.text is None or asked.text.format is None:
        return None
    param = "text.format"
    form = as_object(asked.text.format, param)
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            return Wish(param, "json_object")
        case "json_schema":
            return Wish(f"{param}.schema", "json", form.get("schema"))
    raise InvalidRequest(
        f"{param}.type: should be 'text', 'json_object' or 'json_schema'", param=f"{param}.type"
    )


def _told(asked: ResponsesRequest, tools: AskedTools, store: bool) -> dict[str, Any]:
    reasoning, text = asked.reasoning, asked.text
    form = text.format if text and text.format else {"type": "text"}
    return {
        "background": bool(asked.background),
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id or None,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": {
            "effort": reasoning and reasoning.effort,
            "summary": reasoning and reasoning.summary,
        },
        "safety_identifier": asked.safety_identifier,
        "service_tier": "default",
        "store": store,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "text": {"format": form, "verbosity": (text and text.verbosity) or "medium"},
        "tool_choice": asked.tool_choice or "auto",
        "tools": tools.told,
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "presence_penalty": asked.presence_penalty or 0.0,
        "frequency_penalty": asked.frequency_penalty or 0.0,
        "truncation": asked.truncation or "disabled",
        "user": asked.user,
        "metadata": asked.metadata or {},
    }
