"""What is seen of a benchmark while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from cluster.bench.drive import Bounds, Live
from cluster.bench.load import Load
from cluster.bench.table import ms, number


class Progress:
    """A bar for the level under way, with live figures; nothing where there is no terminal."""

    def __init__(self, console: Console, loads: Sequence[Load], bounds: Bounds) -> None:
        self._bounds = bounds
        self._loads = loads
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._live: Live | None = None
        self._task = self._bars.add_task("warm-up", total=1.0, figures="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def watch(self, live: Live) -> None:
        """Draw the level as it is now."""
        if live is not self._live:
            self._live = live
            self._bars.reset(self._task, total=1.0, description=str(live.load), figures="")
        done = [live.seconds / self._bounds.seconds] if self._bounds.seconds else []
        if self._bounds.requests:
            done.append(len(live.requests) / self._bounds.requests)
        self._bars.update(
            self._task, completed=min(1.0, max(done)), figures=figures(live), refresh=True
        )


def figures(live: Live) -> str:
    """In a line: how many, how fast."""
    first = f", TTFT {ms(median(live.ttfts))} ms" if live.ttfts else ""
    failed = f", {live.failed} failed" if live.failed else ""
    rate = number(live.pieces / max(live.seconds, 1e-9))
    now = f"{len(live.requests)} done, {len(live.under_way)} under way"
    return f"{now}{failed}, {rate} pieces/s{first}"
