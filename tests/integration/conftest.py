"""What most tests of the API begin with."""

from __future__ import annotations

import pytest

from cluster.text.tokenizer import Tokenizer
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
