from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.routing import Route

from api.app import create_app
from api.docs_page import POLICY, page
from api.endpoints import OPERATIONS
from api.openapi import REFERENCE, document
from cluster.text.tokenizer import Tokenizer
from tests.unit.api.fake import FakeCoordinator


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document(OPERATIONS)


def test_every_route_has_an_entry_and_every_entry_a_route(tokenizer: Tokenizer) -> None:
    routes = create_app(FakeCoordinator(tokenizer)).routes
    served = {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in routes
        if isinstance(route, Route)
        # Where the endpoint is an ASGI application, Starlette has no methods for HEAD to join.
        for method in (route.methods or set()) - {"HEAD"}
    }
    written = {(one.method, one.path) for one in OPERATIONS}
    written |= {(one.method, one.path.removeprefix("/v1")) for one in OPERATIONS if one.bare}
    assert served == written


def test_no_operation_is_there_twice(made: dict[str, Any]) -> None:
    assert len({(one.method, one.path) for one in OPERATIONS}) == len(OPERATIONS)
    operations = [each for methods in made["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(OPERATIONS)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_references_lead_somewhere(made: dict[str, Any]) -> None:
    names = {reference.removeprefix(REFERENCE) for reference in references(made)}
    assert names <= set(made["components"]["schemas"])


def test_a_lone_string_is_documented_where_it_is_taken(made: dict[str, Any]) -> None:
    schemas = made["components"]["schemas"]
    content = schemas["ChatMessage"]["properties"]["content"]["anyOf"]
    assert {"type": "string"} in content
    for name in ("ChatRequest", "OllamaOptions"):
        kinds = [each.get("type") for each in schemas[name]["properties"]["stop"]["anyOf"]]
        assert kinds == ["string", "array", "null"]
    top_k = schemas["OllamaOptions"]["properties"]["top_k"]["anyOf"][0]
    assert top_k == {"type": "integer", "minimum": -1}


class Tags(HTMLParser):
    """Fails on tags that don't match; keeps what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "img", "link", "iframe", "form", "object")
        assert set(found) <= {"href", "id", "lang", "charset", "name", "content"}
        self.links.append(found.get("href") or "")
        self.ids.add(found.get("id") or "")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(made: dict[str, Any]) -> None:
    tags, text = Tags(), page(made)
    tags.feed(text)
    tags.close()
    assert tags.open == []
    assert {link for link in tags.links if link and link[0] != "#"} == {"/openapi.json"}
    assert {link[1:] for link in tags.links if link.startswith("#")} <= tags.ids
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY
    assert "number, from 0 to 2" in text
    assert "number, over 0 to 100" in text
    assert "list of string, from 1 to 1000 characters, to 16 items" in text


def test_what_the_document_says_is_no_html(made: dict[str, Any]) -> None:
    evil = {**made, "info": {**made["info"], "description": "<script>alert(1)</script>"}}
    assert "<script" not in page(evil)
