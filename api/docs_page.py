"""The OpenAPI document as one page of HTML, without scripts and without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from api.openapi import REFERENCE

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { padding: 0.75rem; border: 1px solid #8886; border-radius: 6px; overflow-x: auto; }
details { border: 1px solid #8886; border-radius: 6px; margin: 0.5rem 0; padding: 0.5rem 0.75rem; }
summary { cursor: pointer; }
summary b { display: inline-block; min-width: 4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; }
tr { border-top: 1px solid #8883; }
"""

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: nothing but its own style."""


def page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    info, schemas = document["info"], document["components"]["schemas"]
    groups = "".join(_group(tag["name"], document["paths"]) for tag in document["tags"])
    shapes = "".join(_shape(name, schema) for name, schema in sorted(schemas.items()))
    title = escape(info["title"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: API</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{title} {escape(info['version'])}</h1>\n<p>{escape(info['description'])}</p>\n"
        '<p>The same for programs: <a href="/openapi.json">/openapi.json</a></p>\n'
        f"{groups}<h2>Shapes</h2>\n{shapes}</body>\n</html>\n"
    )


def _group(name: str, paths: Mapping[str, Any]) -> str:
    inside = "".join(
        _operation(method, path, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if name in operation["tags"]
    )
    return f"<h2>{escape(name)}</h2>\n{inside}"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    inside = ""
    if body := operation.get("requestBody"):
        ((kind, content),) = body["content"].items()
        inside += f"<h4>Body ({escape(kind)})</h4>\n<p>{_type(content['schema'])}</p>\n"
        for example in content.get("examples", {}).values():
            inside += f"<pre>{escape(json.dumps(example['value'], indent=2))}</pre>\n"
    if parameters := operation.get("parameters"):
        named = ", ".join(f"<code>{escape(each['name'])}</code>" for each in parameters)
        inside += f"<h4>In the path</h4>\n<p>{named}</p>\n"
    rows = "".join(_answer(status, each) for status, each in operation["responses"].items())
    inside += f"<h4>Answers</h4>\n<table>{rows}</table>\n"
    return (
        f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code> "
        f"{escape(operation['summary'])}</summary>\n{inside}</details>\n"
    )


def _answer(status: str, answer: Mapping[str, Any]) -> str:
    kinds = "<br>".join(
        f"{escape(kind)} {_type(content['schema']) if 'schema' in content else ''}"
        for kind, content in answer["content"].items()
    )
    return f"<tr><td>{status}</td><td>{escape(answer['description'])}</td><td>{kinds}</td></tr>"


def _shape(name: str, schema: Mapping[str, Any]) -> str:
    needed = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{' *' if field in needed else ''}</td>"
        f"<td>{_type(each)}</td><td>{escape(each.get('description', ''))}</td></tr>"
        for field, each in schema.get("properties", {}).items()
    )
    inside = f"<table>{rows}</table>" if rows else f"<p>{_type(schema)}</p>"
    return (
        f'<h3 id="{escape(name)}">{escape(name)}</h3>\n'
        f"<p>{escape(schema.get('description', ''))}</p>\n{inside}\n"
    )


def _type(schema: Mapping[str, Any]) -> str:
    """What a value may be, in a few words, as HTML."""
    if reference := schema.get("$ref"):
        name = escape(reference.removeprefix(REFERENCE))
        return f'<a href="#{name}">{name}</a>'
    for many in ("anyOf", "oneOf"):
        if many in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[many])))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}{_range(schema, 'Items', ' items')}"
        case "object":
            inner = schema.get("additionalProperties")
            return f"object of {_type(inner)}" if isinstance(inner, dict) else "object"
        case "string":
            form = f" like <code>{escape(schema['pattern'])}</code>" if "pattern" in schema else ""
            return f"string{_range(schema, 'Length', ' characters')}{form}"
        case "integer" | "number" as kind:
            return f"{kind}{_range(schema, 'imum', '')}"
        case str() as kind:
            return kind
        case _:
            return "anything"


def _range(schema: Mapping[str, Any], of: str, unit: str) -> str:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    over = schema.get("exclusiveMinimum") if of == "imum" else None
    said = []
    if over is not None:
        said.append(f"over {over:g}")
    if least is not None:
        said.append(f"from {least:g}")
    if most is not None:
        said.append(f"to {most:g}")
    return f", {' '.join(said)}{unit}" if said else ""
