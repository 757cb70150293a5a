"""JSON schemas for hypothesis, of every kind of keyword that grammars express."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

_PATTERNS = [
    "^[a-z]{2,5}$",
    "^\\d{3}-\\d{2}$",
    "^(yes|no|maybe)$",
    "^a?b*c{1,3}$",
    "^[A-Z][a-z]{0,4}$",
]
_FORMATS = ["date", "time", "ipv4", "uuid"]
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-99, 99), st.sampled_from(["red", "日本", 'a"b\\', "\n"])
)


def _range(low: str, high: str, most: int) -> st.SearchStrategy[Schema]:
    pairs = st.tuples(st.integers(0, most), st.integers(0, most))
    return pairs.map(lambda pair: {low: min(pair), high: max(pair)})


_STRINGS = st.one_of(
    st.sampled_from(_PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(_FORMATS).map(lambda name: {"type": "string", "format": name}),
    _range("minLength", "maxLength", 6).map(lambda bounds: {"type": "string", **bounds}),
)
_NUMBERS = st.builds(
    lambda kind, bounds: {"type": kind, **bounds},
    st.sampled_from(["integer", "number"]),
    _range("minimum", "maximum", 5000),
)
_PLAIN = st.one_of(
    _STRINGS,
    _NUMBERS,
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
    st.lists(_VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    _VALUES.map(lambda value: {"const": value}),
)
_NAMES = st.sampled_from(["a", "name", "x y", 'q"', "日", "tags", "z"])


def _arrays(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.builds(
        lambda items, bounds: {"type": "array", "items": items, **bounds},
        inner,
        _range("minItems", "maxItems", 3),
    )


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(_NAMES, inner, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _grow(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    either = st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
    return st.one_of(_arrays(inner), _objects(inner), either)


_TREES = st.recursive(_PLAIN, _grow, max_leaves=8)


def _referring(definition: Schema, recursive: bool) -> Schema:
    reference = {"$ref": "#/$defs/node"}
    if not recursive:
        properties = {"first": reference, "others": {"type": "array", "items": reference}}
        root: Schema = {"type": "object", "properties": properties, "required": ["first"]}
        return {**root, "additionalProperties": False, "$defs": {"node": definition}}
    node = {
        "type": "object",
        "properties": {"value": definition, "next": {"anyOf": [{"type": "null"}, reference]}},
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    return {**reference, "$defs": {"node": node}}


SCHEMAS: st.SearchStrategy[Schema] = st.one_of(
    _TREES, _objects(_TREES), st.builds(_referring, _PLAIN, st.booleans())
)
