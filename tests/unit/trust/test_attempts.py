from __future__ import annotations

import pytest

from cluster.core.errors import TooManyRequests
from cluster.trust.attempts import FAILURES, MOST_HOSTS, SECONDS, Attempts


def fail(attempts: Attempts, host: str, now: float) -> None:
    attempts.check(host, now)
    attempts.failed(host, now)


def test_some_at_once_and_then_one_by_one() -> None:
    attempts = Attempts()
    for _ in range(FAILURES):
        fail(attempts, "a", 0.0)
    with pytest.raises(TooManyRequests, match="from a: try again in 12 s") as caught:
        attempts.check("a", 0.0)
    assert caught.value.retry_after == pytest.approx(12)
    fail(attempts, "a", 12.0)
    with pytest.raises(TooManyRequests):
        attempts.check("a", 23.9)


def test_others_are_not_disturbed() -> None:
    attempts = Attempts()
    for _ in range(FAILURES):
        fail(attempts, "a", 0.0)
    attempts.check("b", 0.0)


def test_a_quiet_one_begins_anew() -> None:
    attempts = Attempts()
    for _ in range(FAILURES):
        fail(attempts, "a", 0.0)
    for _ in range(FAILURES):
        fail(attempts, "a", SECONDS)


def test_only_so_many_are_remembered() -> None:
    attempts = Attempts()
    for number in range(MOST_HOSTS + 10):
        attempts.failed(str(number), 0.0)
    assert len(attempts) == MOST_HOSTS
