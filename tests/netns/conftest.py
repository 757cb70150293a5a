"""The networks of one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.netns.network import Make, Network, networks


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes networks of so many machines (`network.py`)."""
    made: list[Network] = []

    def making(count: int) -> Network:
        made.append(make(count))
        return made[-1]

    with networks(tmp_path) as make:
        try:
            yield making
        finally:
            for child in (c for network in made for m in network.machines for c in m.children):
                await child.kill()
