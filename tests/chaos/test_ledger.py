"""The ledger, for less than a minute."""

from __future__ import annotations

import pytest

from tests.chaos import ledger

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(420)
def test_nothing_is_lost_and_nothing_comes_twice() -> None:
    books = ledger.run(seconds=36.0, every=9.0, rate=0.8, seed=9)
    print(books.table())
    assert len(books.verdicts) > 10 and books.faults.total() == 3
    assert books.ends()["hung up"] > 0
    assert books.unmet() == []
