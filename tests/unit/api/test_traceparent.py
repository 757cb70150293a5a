from __future__ import annotations

import pytest

from api.traceparent import Parent, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_parent_and_whether_it_is_sampled() -> None:
    assert parent_of(f"00-{TRACE}-{SPAN}-01") == Parent(TRACE, SPAN, sampled=True)
    assert parent_of(f" 00-{TRACE}-{SPAN}-02 ") == Parent(TRACE, SPAN, sampled=False)


def test_a_later_version_may_say_more() -> None:
    assert parent_of(f"01-{TRACE}-{SPAN}-01-more") == Parent(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
    ],
)
def test_what_is_malformed_is_as_none(header: str | None) -> None:
    assert parent_of(header) is None
