"""What every test may use."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable

import anyio
import pytest

from cluster.node.blas import engine_environment, find_blas


def _fast_blas() -> None:
    """Have this process compute with the library that engines get, some 20 times faster. To be
    called before anything imports MLX, whose symbols are then found here first."""
    blas = find_blas()
    if not blas.preload:
        return
    before = dict(os.environ)
    os.environ.update(engine_environment(blas, threads=0))
    ctypes.CDLL(blas.preload, mode=ctypes.RTLD_GLOBAL)  # reads its settings now
    os.environ.clear()
    os.environ.update(before)


_fast_blas()


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as Tandem does (gRPC's aio needs it)."""
    return "asyncio"


async def wait_for(condition: Callable[[], object], deadline: float = 5.0) -> None:
    """Return as soon as `condition()` is true; fail the test after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"still not true after {deadline} s: {condition!r}")
        await anyio.sleep(0.005)


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[..., object]:
    """`await wait_for(condition, deadline)`, for tests that don't import this module."""
    return wait_for
