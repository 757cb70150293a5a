"""Anthropic's requests, as the core has them. Pure."""

from __future__ import annotations

from api.ask import Ask, Chat, Wish
from api.convert.anthropic_tools import tools_of
from api.convert.anthropic_turns import conversation
from api.convert.openai_sampling import LEAST_TOP_P
from api.schema.anthropic import LEAST_BUDGET, CountRequest
from cluster.core.errors import InvalidRequest, Unsupported
from cluster.core.sampling import Sampling


def ask_of(asked: CountRequest) -> Ask:
    """The request; raises RequestError that names the offending field."""
    for name in ("mcp_servers", "container", "thread", "compaction"):
        if getattr(asked, name) not in (None, [], {}, ""):
            raise Unsupported(f"{name} is not supported by this version of Tandem", param=name)
    wish = _wish(asked)
    return Ask(
        _chat(asked, formed=wish is not None),
        model=asked.model,
        stream=bool(asked.stream),
        max_tokens=asked.max_tokens,
        stop=tuple(asked.stop_sequences or ()),
        sampling=Sampling(
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_k=asked.top_k or 0,
            top_p=1.0 if asked.top_p is None else max(asked.top_p, LEAST_TOP_P),
        ),
        wish=wish,
    )


def _chat(asked: CountRequest, *, formed: bool) -> Chat:
    messages, prefill = conversation(asked.system or (), asked.messages)
    tools, choice, named = tools_of(asked.tools, asked.tool_choice)
    forced = choice == "required"
    thinking = _thinking(asked, bound=formed or forced)
    if forced and thinking:
        raise InvalidRequest(
            "thinking: not possible where tool_choice demands a tool call", param="thinking"
        )
    if prefill:
        enabled = asked.thinking is not None and asked.thinking.type == "enabled"
        given = {"tool_choice": forced, "output_config.format": formed, "thinking": enabled}
        if field := next((name for name in given if given[name]), ""):
            where = f"messages[{len(asked.messages) - 1}]"
            raise InvalidRequest(
                f"{where}: an assistant's turn can't be continued where {field} says how the "
                "answer begins",
                param=where,
            )
        thinking = False
    return Chat(messages, tools, choice, named, thinking, prefill)


def _thinking(asked: CountRequest, *, bound: bool) -> bool | None:
    """`bound`: the answer has a form, which leaves no room for reasoning. Of a budget only the
    value is checked: how long a model reasons is not enforced."""
    thinking = asked.thinking
    if thinking is None or thinking.type == "disabled":
        return None if thinking is None else False
    if thinking.type == "adaptive":
        return None if bound else True
    budget, param = thinking.budget_tokens, "thinking.budget_tokens"
    if budget is None:
        raise InvalidRequest(f"{param}: field required", param=param)
    if budget < LEAST_BUDGET:
        raise InvalidRequest(
            f"{param}: input should be greater than or equal to {LEAST_BUDGET}", param=param
        )
    if asked.max_tokens is not None and budget >= asked.max_tokens:
        raise InvalidRequest(f"max_tokens must be greater than {param}", param="max_tokens")
    return True


def _wish(asked: CountRequest) -> Wish | None:
    newer = asked.output_config.format if asked.output_config else None
    if newer and asked.output_format:
        raise InvalidRequest(
            "output_format: output_config.format says already what the answer must be like",
            param="output_format",
        )
    if newer:
        return Wish("output_config.format.schema", "json", newer.schema_)
    if asked.output_format:
        return Wish("output_format.schema", "json", asked.output_format.schema_)
    return None
