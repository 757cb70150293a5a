"""Servers that several tests share: starting one takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster_process import Server, serving
from tests.e2e.random_models import make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder start real engines."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random model by name, made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make(name, tmp_path_factory.mktemp("models") / name)
        return made[name]

    return folder


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    """The demo model on one rank."""
    with serving() as server:
        yield server


@pytest.fixture(scope="module", params=[1, 2])
def llama(request: pytest.FixtureRequest, random_model: Callable[[str], Path]) -> Iterator[Server]:
    """A random 30M llama with a 32k context, on one rank and on two; two sequences at
    a time."""
    model = str(random_model("llama_30m"))
    ranks = str(request.param)
    with serving("--model", model, "--local-ranks", ranks, "--sequences", "2") as server:
        yield server
