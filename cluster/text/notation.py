"""How a model marks reasoning and tool calls in its text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

Parse = Callable[[str, Sequence[Mapping[str, Any]] | None], Any]
"""One of mlx-lm's tool parsers: the text between the markers and the OpenAI tools, to a mapping
or a list of mappings with `name` and `arguments`. Raises whatever it likes."""

_PARSERS = "mlx_lm.tool_parsers."
_INNER = {
    "gemma4": ('<|"|>',),
    "function_gemma": ("<escape>",),
    "glm47": ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "kimi_k2": ("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    "longcat": (
        "<longcat_arg_key>",
        "</longcat_arg_key>",
        "<longcat_arg_value>",
        "</longcat_arg_value>",
    ),
    "mistral": ("[CALL_ID]", "[ARGS]"),
}
"""What a parser looks for within a call and some tokenizer has as a special token."""


@dataclass(frozen=True, slots=True)
class Notation:
    """Markers are empty where a model has none."""

    think_start: str = ""
    think_end: str = ""
    call_start: str = ""
    """Empty: a call is the whole answer, as bare JSON."""
    call_end: str = ""
    """Empty after a `call_start`: calls run to the end of the answer."""
    json_calls: bool = True
    """A call is {"name": ..., "arguments": {...}} between the markers."""
    parse: Parse | None = None
    """Reads what is between the markers where that isn't JSON."""
    marker_ids: Mapping[int, str] = field(default_factory=dict, hash=False)
    """Special tokens that a marker is made of, or a call, and their texts."""
    layout: tuple[str, ...] = ()
    """Markers around what is plain text, to be dropped."""


def notation_of(wrapped: Any, specials: Mapping[int, str], end_ids: Set[int]) -> Notation:
    """What mlx-lm's TokenizerWrapper has found out; `specials` are the ids that decoding skips,
    and their texts."""
    parser = wrapped.tool_parser
    module = getattr(parser, "__module__", "").removeprefix(_PARSERS)
    think = (wrapped.think_start or "", wrapped.think_end or "")
    call = (wrapped.tool_call_start or "", wrapped.tool_call_end or "") if parser else ("", "")
    layout = tuple(wrapped.structural_markers)
    json_calls = parser is None or module == "json_tools"
    shown = _part_of((*think, *call, *layout, *_INNER.get(module, ())), specials)
    return Notation(
        *think,
        *call,
        json_calls=json_calls,
        parse=None if json_calls else parser,
        marker_ids={token: text for token, text in shown if token not in end_ids},
        layout=layout,
    )


def _part_of(markers: Iterable[str], specials: Mapping[int, str]) -> list[tuple[int, str]]:
    whole = "\0".join(markers)
    return [(token, text) for token, text in specials.items() if text and text in whole]
