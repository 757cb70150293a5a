"""The choices of one answer: a generation each, side by side, that fail and are left together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import anyio

from api.serving import Answers, Generation
from cluster.core.errors import TandemError
from cluster.core.ids import RequestId
from cluster.core.request import Progress, Usage


class Choices:
    """At least one generation, in the order of their index."""

    def __init__(self, generations: Sequence[Generation], model: Answers | None = None) -> None:
        """`model` is what makes them."""
        self._generations = generations
        self._model = model

    @property
    def id(self) -> RequestId:
        """That of the first."""
        return self._generations[0].id

    @property
    def first(self) -> Generation:
        """Times and steps are told of this one."""
        return self._generations[0]

    @property
    def usage(self) -> Usage:
        """The prompt counted once, and the tokens of all answers; exact once all are over."""
        first = self._generations[0].usage
        completed = sum(generation.usage.completion_tokens for generation in self._generations)
        return Usage(first.prompt_tokens, first.cached_tokens, completed)

    @property
    def progress(self) -> Progress:
        """Of the first that is not over."""
        running = (one for one in self._generations if one.finish is None)
        progress = next(running, self._generations[0]).progress
        waits = self._model.loading if self._model is not None else ""
        return replace(progress, waits=waits) if waits else progress

    @property
    def advancing(self) -> bool:
        """There is progress, or what they wait for makes some."""
        return self._model is None or self._model.health().advancing

    async def each(self, read: Callable[[int, Generation], Coroutine[Any, Any, None]]) -> None:
        """Run `read(index, generation)` for all of them at the same time.

        Raises the first TandemError that one of them raises; the others are then no longer read.
        """
        try:
            async with anyio.create_task_group() as tasks:
                for index, generation in enumerate(self._generations):
                    tasks.start_soon(read, index, generation, name=f"choice {index}")
        except ExceptionGroup as errors:
            _, bugs = errors.split(TandemError)
            if bugs is not None:
                raise
            raise errors.exceptions[0] from errors
