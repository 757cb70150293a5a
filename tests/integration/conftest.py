"""What most tests of the API begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cluster.text.tokenizer import Tokenizer
from tests.integration.streams import HELLO, Server, served
from tests.unit.api.fake import FakeCoordinator
from tests.unit.text.bpe import make_folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A small one, without marks of reasoning or calls."""
    return Tokenizer.load(make_folder(tmp_path_factory.mktemp("bpe")))


@pytest.fixture
def coordinator(tokenizer: Tokenizer) -> FakeCoordinator:
    """Answers "Hello, world" unless told otherwise."""
    return FakeCoordinator(tokenizer)


@pytest.fixture
async def server(coordinator: FakeCoordinator) -> AsyncIterator[Server]:
    """One whose answers outlive their clients, and say HELLO."""
    coordinator.script = [*HELLO]
    async with served(coordinator) as server:
        yield server
