from __future__ import annotations

import pytest

from api.caller import Caller
from api.live import Live
from cluster.core.ids import RequestId

ANN, BOB = Caller("ann's laptop", "ann"), Caller("bob's", "bob")
CHIEF = Caller("chief's", "chief", operator=True)
NEITHER = Caller()


def test_only_the_owner_finds_a_request_and_only_while_it_runs() -> None:
    live, request = Live(), RequestId("msg-1f")
    with live.entered(request, ANN, "chat"), live.entered(RequestId("msg-2f"), BOB, "chat"):
        assert live.find("msg-1f", ANN) == request
        assert live.find("msg-1f", BOB) is None
        assert live.find("msg-1f", NEITHER) is None
        assert live.find("msg-3f", ANN) is None
    assert live.find("msg-1f", ANN) is None
    assert len(live) == 0


def test_an_operator_knows_all_requests_and_who_sent_them() -> None:
    live, request = Live(), RequestId("msg-1f")
    with live.entered(request, ANN, "OpenAI chat"):
        assert live.find("msg-1f", CHIEF) == request
        asked = live.asked(request, CHIEF)
        assert asked is not None
        assert (asked.key, asked.dialect) == ("ann's laptop", "OpenAI chat")
        assert live.asked(request, ANN) == asked
        assert live.asked(request, BOB) is None
    assert live.asked(request, CHIEF) is None


def test_a_response_is_found_by_the_id_that_it_shows() -> None:
    live = Live()
    with (
        live.entered(RequestId("resp-1f"), NEITHER, "responses"),
        live.entered(RequestId("msg_2f"), NEITHER, "messages"),
    ):
        assert live.find("resp_1f", NEITHER) == "resp-1f"
        assert live.find("msg_2f", NEITHER) == "msg_2f"
        assert live.find("resp_1f", ANN) is None


def test_a_request_that_fails_is_forgotten_too() -> None:
    live = Live()
    with pytest.raises(ValueError), live.entered(RequestId("msg-1f"), NEITHER, "chat"):
        raise ValueError
    assert len(live) == 0
