"""Small charts as SVG: lines and bars on axes, nothing more. Pure; colours are CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
"""Room around the plot."""
LETTER, LINE = 6.5, 14
"""Width of a letter, height of a line."""
TICKS = 5
"""About so many on an axis."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together; `style` is a class of the page."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    """Of the points, where they have names."""
    marks: bool = False
    """Draw each point."""
    named: bool = False
    """Write each point's label beside it."""
    area: bool = False
    """Fill what is below."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A thin horizontal bar in a row of its own."""

    row: int
    begin: float
    end: float
    style: str
    title: str


@dataclass(frozen=True, slots=True)
class Axis:
    """What is along an edge, and how far it goes."""

    label: str
    most: float
    ticks: Sequence[float] = field(default_factory=tuple)


def axis(label: str, most: float) -> Axis:
    """From 0 to at least `most`, with ticks at round numbers."""
    step = nice(most / TICKS) if most > 0 else 1.0
    count = max(1, math.ceil(most / step - 1e-9))
    return Axis(label, count * step, tuple(step * n for n in range(count + 1)))


def nice(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Lines of several series, with their legend below the title."""
    parts = [_grid(x, y), *(_line(each, x, y) for each in series)]
    return _svg(title, parts) + _legend(series)


def bars(title: str, x: Axis, rows: int, drawn: Sequence[Bar]) -> str:
    """Rows of bars over one axis, the first on top."""
    y = Axis("", max(rows, 1))
    height = max(1.0, min(10.0, 0.8 * (HEIGHT - TOP - BOTTOM) / max(rows, 1)))
    parts = [_grid(x, y)]
    for bar in drawn:
        left, right = _x(bar.begin, x), _x(bar.end, x)
        top = TOP + (bar.row + 0.5) * (HEIGHT - TOP - BOTTOM) / max(rows, 1) - height / 2
        parts.append(
            f'<rect class="{bar.style}" x="{left:.1f}" y="{top:.1f}" '
            f'width="{max(0.6, right - left):.1f}" height="{height:.1f}">'
            f"<title>{escape(bar.title)}</title></rect>"
        )
    return _svg(title, parts)


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _x(value: float, x: Axis) -> float:
    share = min(max(value / x.most, 0.0), 1.0)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(value: float, y: Axis) -> float:
    share = min(max(value / y.most, 0.0), 1.0)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> str:
    parts = []
    for tick in y.ticks:
        at = _y(tick, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" class="end">{_tick(tick)}</text>')
    for tick in x.ticks:
        at = _x(tick, x)
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" class="mid">{_tick(tick)}</text>'
        )
    bottom = HEIGHT - BOTTOM
    right = WIDTH - RIGHT
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" class="mid label">{escape(x.label)}</text>')
    if y.label:
        up = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text transform="translate(13 {up}) rotate(-90)" class="mid label">'
            f"{escape(y.label)}</text>"
        )
    return "".join(parts)


def _line(series: Series, x: Axis, y: Axis) -> str:
    places = [(_x(a, x), _y(b, y)) for a, b in series.points]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    parts = []
    if series.area and places:
        bottom = HEIGHT - BOTTOM
        closed = f"{places[0][0]:.1f},{bottom} {path} {places[-1][0]:.1f},{bottom}"
        parts.append(f'<polygon class="area {series.style}" points="{closed}"/>')
    parts.append(f'<polyline class="line {series.style}" points="{path}"/>')
    if series.marks:
        for (a, b), name in zip(places, series.labels, strict=True):
            parts.append(
                f'<circle class="dot {series.style}" cx="{a:.1f}" cy="{b:.1f}" r="4">'
                f"<title>{escape(f'{series.name}, {name}')}</title></circle>"
            )
    if series.named:
        parts += _names(places, series.labels)
    return "".join(parts)


def _names(places: Sequence[tuple[float, float]], names: Sequence[str]) -> list[str]:
    """Names beside their points, above or below; where there is no room, none."""
    parts = []
    taken: list[tuple[float, float, float]] = []
    for (a, b), name in zip(places, names, strict=True):
        width = LETTER * len(name)
        left = a - 8 - width if a > WIDTH / 2 else a + 8
        for base in (b - 7, b + 17, b - 21, b + 31):
            clear = all(
                abs(base - y) >= LINE or left > end or left + width < begin
                for begin, end, y in taken
            )
            if clear and TOP + 8 < base < HEIGHT - BOTTOM - 3:
                taken.append((left, left + width, base))
                parts.append(f'<text x="{left:.1f}" y="{base:.1f}">{escape(name)}</text>')
                break
    return parts


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    keys = "".join(f'<span class="key {s.style}">{escape(s.name)}</span>' for s in series)
    return f'<p class="legend">{keys}</p>'


def _tick(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
