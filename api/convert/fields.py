"""From pydantic's account of what is wrong to one clear line, for every dialect."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cluster.core.errors import InvalidRequest

LONGEST = 200
"""Of a field's path; parts of it can be the client's own words."""

Shape = TypeVar("Shape", bound=BaseModel)


def checked(shape: type[Shape], value: dict[str, Any]) -> Shape:
    """`value` as a `shape`; raises InvalidRequest that names the first offending field."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = path_of(first["loc"])
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise InvalidRequest(f"{param}: {message}", param=param) from None


def path_of(places: tuple[int | str, ...]) -> str:
    """`messages[0].content` for ("messages", 0, "content")."""
    path = ""
    for place in places:
        if isinstance(place, int):
            path += f"[{place}]"
        else:
            path += f".{place}" if path else place
    return path[:LONGEST]
