"""How far the engines have loaded: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from cluster.coordinator.epoch import EngineState


class LoadingBar:
    """One bar per rank; gone once all ranks are ready. Used as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[int, TaskID] = {}
        self._said: set[tuple[int, str]] = set()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away; later calls show nothing."""
        self._bars.stop()

    def __call__(self, engines: Sequence[EngineState]) -> None:
        """Show the engines as they are now."""
        for engine in engines:
            what = "ready" if engine.endpoint else engine.loading.what
            fraction = 1.0 if engine.endpoint else engine.loading.fraction
            label = f"rank {engine.rank} on {engine.member.description.hostname}: {what}"
            if engine.rank not in self._tasks:
                self._tasks[engine.rank] = self._bars.add_task(label, total=1.0)
            self._bars.update(self._tasks[engine.rank], description=label, completed=fraction)
            if not self._console.is_terminal and (engine.rank, what) not in self._said:
                self._said.add((engine.rank, what))
                self._console.print(label, highlight=False)
