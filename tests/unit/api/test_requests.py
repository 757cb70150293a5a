from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from starlette.datastructures import QueryParams

from api.caller import ANYONE, Caller
from api.live import Live
from api.routes.requests import number_of, page_of
from cluster.core.errors import InvalidRequest
from cluster.core.ids import RequestId
from cluster.core.request import Phase, Progress
from cluster.core.view import RequestView

ANN, BOB = Caller("laptop", "ann"), Caller("ci", "bob")
CHIEF = Caller("desk", "chief", operator=True)


def view(name: str, phase: Phase = Phase.DECODE) -> RequestView:
    return RequestView(name, Progress(phase, 100, 40, 7), 30, 2.5, tokens_per_second=11.0)


@pytest.fixture
def known() -> Iterator[Live]:
    live = Live()
    with ExitStack() as stack:
        for name, caller in (("a-1", ANN), ("b-1", BOB), ("a-2", ANN)):
            stack.enter_context(live.entered(RequestId(name), caller, "OpenAI chat"))
        yield live


LIVE = (view("a-1", Phase.QUEUED), view("b-1"), view("gone", Phase.DRAINING), view("a-2"))


def ids(page: dict[str, object]) -> list[str]:
    requests = page["requests"]
    assert isinstance(requests, list)
    return [each["id"] for each in requests]


def test_a_key_sees_its_own_and_how_many_there_are(known: Live) -> None:
    page = page_of(LIVE, known, ANN, None, 0, 10)
    assert ids(page) == ["a-1", "a-2"]
    assert (page["total"], page["all_visible"]) == (2, False)
    assert page["phases"] == {"queued": 1, "prefill": 0, "decode": 2, "draining": 1}
    assert ids(page_of(LIVE, known, Caller("x", "x"), None, 0, 10)) == []


def test_an_operator_sees_all_and_whose_they_are(known: Live) -> None:
    page = page_of(LIVE, known, CHIEF, None, 0, 10)
    assert ids(page) == ["a-1", "b-1", "a-2"]
    assert page["all_visible"] is True
    assert page["requests"][1] == {
        "id": "b-1", "dialect": "OpenAI chat", "key": "ci", "phase": "decode",
        "prompt_tokens": 100, "prefilled": 40, "generated": 7, "cached_tokens": 30,
        "tokens_per_second": 11.0, "age_seconds": 2.5,
    }  # fmt: skip


def test_where_no_key_is_needed_everyone_is_an_operator(known: Live) -> None:
    assert ids(page_of(LIVE, known, ANYONE, None, 0, 10)) == ["a-1", "b-1", "a-2"]


def test_by_phase_and_page(known: Live) -> None:
    page = page_of(LIVE, known, CHIEF, Phase.DECODE, 1, 1)
    assert (ids(page), page["total"], page["offset"]) == (["a-2"], 2, 1)
    assert ids(page_of(LIVE, known, CHIEF, None, 99, 10)) == []


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "501", "9" * 20, "٣"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="limit: must be a whole number from 0 to 500"):
        number_of(QueryParams({"limit": text}), "limit", 100, 500)


def test_numbers() -> None:
    asked = QueryParams({"limit": "500", "empty": ""})
    assert number_of(asked, "limit", 100, 500) == 500
    assert number_of(asked, "empty", 100) == number_of(asked, "missing", 100) == 100
