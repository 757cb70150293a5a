"""The OpenAPI 3.1 document, made of the table of endpoints and the shapes of requests and answers
(https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import TypeAdapter

from api.endpoints import JSON, Operation
from cluster.core.versions import versions

REFERENCE = "#/components/schemas/"

_ABOUT = (
    "A cluster that serves one large language model, in the dialects of OpenAI, Anthropic and "
    "Ollama. "
    "Each answer has the header x-request-id, which the server's log has too."
)
_HEADERS = {
    "x-request-id": {"description": "The request's id.", "schema": {"type": "string"}},
}
_RETRY = {
    "retry-after": {
        "description": "In how many seconds to try again, where that makes sense.",
        "schema": {"type": "string"},
    },
}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

_Schemas = dict[tuple[str, str], dict[str, Any]]
"""By an operation's method and path with what it is of ("request", "answer", "error")."""


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The whole document, JSON."""
    schemas, components = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tandem", "version": versions().tandem, "description": _ABOUT},
        "tags": [{"name": name} for name in dict.fromkeys(one.group for one in operations)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
        # None at all where the server asks for no key.
        "security": [{}, *({name: []} for name in _SECURITY)],
    }


def _key(operation: Operation, part: str) -> tuple[str, str]:
    return f"{operation.method} {operation.path}", part


def _schemas(operations: Sequence[Operation]) -> tuple[_Schemas, dict[str, Any]]:
    """The schema of every shape, and what those refer to."""
    wanted: list[tuple[tuple[str, str], Literal["validation", "serialization"], Any]] = []
    for one in operations:
        if one.request is not None:
            wanted.append((_key(one, "request"), "validation", TypeAdapter(one.request)))
        if one.answer is not None:
            wanted.append((_key(one, "answer"), "validation", TypeAdapter(one.answer)))
        wanted.append((_key(one, "error"), "validation", TypeAdapter(one.error)))
    made, rest = TypeAdapter.json_schemas(wanted, ref_template=REFERENCE + "{model}")
    return {key: schema for (key, _), schema in made.items()}, rest.get("$defs", {})


def _operation(one: Operation, schemas: _Schemas) -> dict[str, Any]:
    summary = one.summary
    if one.bare:
        summary += f". Also at {one.path.removeprefix('/v1')}"
    made: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{one.method.lower()}{one.path}").rstrip("_"),
        "tags": [one.group],
        "summary": f"{summary}.",
        "responses": _responses(one, schemas),
    }
    names = re.findall(r"{(\w+)}", one.path)
    places = [("path", name) for name in names] + [("query", name) for name in one.query]
    if places:
        made["parameters"] = [
            {"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}}
            for place, name in places
        ]
    if one.request is not None:
        content: dict[str, Any] = {"schema": schemas[_key(one, "request")]}
        if one.example is not None:
            content["examples"] = {"least": {"value": one.example}}
        made["requestBody"] = {"required": True, "content": {JSON: content}}
    return made


def _responses(one: Operation, schemas: _Schemas) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if one.status is not None:
        content: dict[str, Any] = {kind: {} for kind in one.also}
        if one.answer is not None:
            content = {JSON: {"schema": schemas[_key(one, "answer")]}, **content}
        about = HTTPStatus(one.status).phrase
        made[str(one.status)] = {"description": about, "headers": _HEADERS, "content": content}
    for status in sorted(one.errors):
        made[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": {**_HEADERS, **_RETRY} if status in (429, 503) else _HEADERS,
            "content": {JSON: {"schema": schemas[_key(one, "error")]}},
        }
    return made
