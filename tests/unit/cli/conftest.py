from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cli.canned import CannedServer


@pytest.fixture
def server() -> Iterator[CannedServer]:
    yield from CannedServer().run()
