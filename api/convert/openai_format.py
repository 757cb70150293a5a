"""What OpenAI's clients say of the form of an answer.

response_format                        OpenAI's own
structured_outputs: {json: ...}        vLLM's, with regex, choice, grammar and json_object
guided_json, guided_regex, ...         vLLM's before that
"""

from __future__ import annotations

from typing import Any

from api.ask import Wish
from api.convert.fields import LONGEST
from api.convert.form import as_object
from api.schema.openai_common import Formed
from cluster.core.errors import InvalidRequest


def wish_of(asked: Formed) -> Wish | None:
    """What is asked of the answer's form; raises InvalidRequest when it is said twice, or in a
    way that makes no sense."""
    found = [*response_format(asked.response_format), *_structured(asked.structured_outputs)]
    found += [
        Wish(f"guided_{kind}", kind, value)
        for kind in ("json", "regex", "choice", "grammar")
        if (value := getattr(asked, f"guided_{kind}")) is not None
    ]
    if len(found) > 1:
        raise InvalidRequest(
            f"{found[1].param}: {found[0].param} says already what the answer must be like",
            param=found[1].param,
        )
    return found[0] if found else None


def response_format(value: Any) -> list[Wish]:
    """OpenAI's own field; at most one wish."""
    if value is None:
        return []
    param = "response_format"
    kind = as_object(value, param).get("type")
    if kind == "text":
        return []
    if kind == "json_object":
        return [Wish(param, kind, None)]
    if kind == "json_schema":
        param += ".json_schema"
        value = as_object(value.get("json_schema"), param)
        return [Wish(f"{param}.schema", "json", value.get("schema"))]
    raise InvalidRequest(
        f"{param}.type: should be 'text', 'json_object' or 'json_schema'", param=f"{param}.type"
    )


def _structured(value: Any) -> list[Wish]:
    if value is None:
        return []
    param = "structured_outputs"
    kinds = ("json", "regex", "choice", "grammar", "json_object")
    named = {
        key: item for key, item in as_object(value, param).items() if item not in (None, False)
    }
    found = [Wish(f"{param}.{kind}", kind, named[kind]) for kind in kinds if kind in named]
    unknown = next((key for key in named if key not in kinds), None)
    if unknown is not None:
        place = f"{param}.{unknown}"[:LONGEST]
        raise InvalidRequest(f"{place}: not supported; {', '.join(kinds)} are", param=place)
    return found
