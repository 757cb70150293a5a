from __future__ import annotations

import pytest

from api.live import Live
from cluster.core.ids import RequestId


def test_only_the_owner_finds_a_request_and_only_while_it_runs() -> None:
    live, request = Live(), RequestId("msg-1f")
    with live.entered(request, "ann"), live.entered(RequestId("msg-2f"), "bob"):
        assert live.find("msg-1f", "ann") == request
        assert live.find("msg-1f", "bob") is None
        assert live.find("msg-1f", "") is None
        assert live.find("msg-3f", "ann") is None
    assert live.find("msg-1f", "ann") is None
    assert len(live) == 0


def test_a_response_is_found_by_the_id_that_it_shows() -> None:
    live = Live()
    with live.entered(RequestId("resp-1f"), ""), live.entered(RequestId("msg_2f"), ""):
        assert live.find("resp_1f", "") == "resp-1f"
        assert live.find("msg_2f", "") == "msg_2f"
        assert live.find("resp_1f", "ann") is None


def test_a_request_that_fails_is_forgotten_too() -> None:
    live = Live()
    with pytest.raises(ValueError), live.entered(RequestId("msg-1f"), ""):
        raise ValueError
    assert len(live) == 0
