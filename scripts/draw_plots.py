"""Draws the plots of docs/benchmarks.md into docs/plots, as SVG that fits light and dark: figures
come from the tables of docs/compare.md and docs/chaos.md, and from nowhere else.

With `--check`, writes nothing and fails when a plot is not current.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "plots"

OURS, SERVER, LOOP = "Tandem", "mlx_lm.server", "raw loop"
SERIES = {OURS: "ours", SERVER: "server", LOOP: "loop"}
GROUPS = (("demo", "1"), ("demo", "2"), ("llama_30m", "1"), ("llama_30m", "2"))
"""Model and ranks, as compare.md has them."""
RATES = {
    "one stream": "one stream, decode",
    "8 streams": "8 streams together",
    "16 streams": "16 streams together",
    "prefill": "prefill",
}
WAITS = {
    "busy after its client has hung up in prefill": "free after a hang-up in prefill",
    "longest gap of a stream beside a long prefill": "worst gap beside a long prefill",
}
FAULTS = ("kill", "stop", "raise", "pause", "slow")

WIDTH, LABEL, END = 760, 170, 70
TOP, BAR, GAP, HEAD, ROW = 64, 12, 9, 30, 26
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1d2733 } .title { font-weight: 600 }
.label { text-anchor: end } .note { fill: #5b6875 } .middle { text-anchor: middle }
.paper { fill: #ffffff } .axis { stroke: #d5dce4 }
.ours { fill: #2f6fb3 } .server { fill: #c98a3a } .loop { fill: #9aa7b5 }
.dot { fill: #2f6fb3; fill-opacity: 0.65 }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e9ef } .note { fill: #9fb0c2 } .paper { fill: #12181f } .axis { stroke: #34404c }
  .ours { fill: #74aee8 } .server { fill: #e0ac66 } .loop { fill: #66737f } .dot { fill: #74aee8 }
}
"""


def rows_of(page: str, first: str) -> list[list[str]]:
    """The cells of every row of the tables of a page whose head begins with the cell `first`.
    Raises ValueError when there is none."""
    rows: list[list[str]] = []
    inside = False
    for line in page.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith(f"| {first} |"):
            inside = True
        elif inside and not line.startswith("|---"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    if not rows:
        raise ValueError(f"no table begins with {first!r}")
    return rows


@dataclass(frozen=True)
class Panel:
    """Rows of bars with one scale: what each is, and its values by series."""

    title: str
    rows: Mapping[str, Mapping[str, float]]


def rates(page: str) -> list[Panel]:
    """Tokens a second of compare.md, of every contestant."""
    cells = rows_of(page, "model")
    return [
        Panel(
            f"{_name(model, ranks)}, tokens a second",
            {
                label: _pair(cells, model, ranks, measure)
                | _pair(cells, model, ranks, measure, LOOP)
                for label, measure in RATES.items()
            },
        )
        for model, ranks in GROUPS
    ]


def _pair(
    cells: Sequence[Sequence[str]], model: str, ranks: str, measure: str, other: str = SERVER
) -> dict[str, float]:
    """Tandem and `other`, from the row that has both."""
    (row,) = [row for row in cells if [*row[:3], row[4]] == [model, ranks, measure, other]]
    return {OURS: _number(row[3]), other: _number(row[5])}


def waits(page: str) -> list[Panel]:
    """Seconds of compare.md that a server or a stream is kept waiting."""
    ours = {tuple(row[:3]): _number(row[3]) for row in rows_of(page, "model")}
    return [
        Panel(
            f"{label}, seconds",
            {
                _name(model, ranks): {
                    OURS: ours[model, ranks, measure],
                    SERVER: ours[model, ranks, f"{SERVER}: {measure}"],
                }
                for model, ranks in GROUPS
            },
        )
        for label, measure in WAITS.items()
    ]


def pauses(page: str) -> dict[str, list[float]]:
    """Seconds from a fault to the next token, of chaos.md, by fault and phase."""
    return {
        f"{row[0]}, in {row[1]}": [float(cell) for cell in row[2:8]]
        for row in rows_of(page, "fault")
        if row[0] in FAULTS and row[1] in ("prefill", "decode")
    }


def _name(model: str, ranks: str) -> str:
    return f"{model}, {ranks} rank{'s' if ranks != '1' else ''}"


def _number(cell: str) -> float:
    found = re.match(r"[\d.]+", cell)
    if found is None:
        raise ValueError(f"{cell!r} has no number")
    return float(found.group())


def draw_bars(title: str, panels: Sequence[Panel]) -> str:
    """The panels, one below the other."""
    parts: list[str] = []
    y = TOP
    for panel in panels:
        drawn, y = _panel(panel, y)
        parts += drawn
    series = [name for name in SERIES if any(name in row for row in panels[0].rows.values())]
    return _page(title, [*_legend(series), *parts], y)


def _panel(panel: Panel, y: int) -> tuple[list[str], int]:
    """What is drawn from `y` down, and where it ends."""
    most = max(value for row in panel.rows.values() for value in row.values())
    parts = [f'<text class="title" x="{LABEL}" y="{y + 14}">{escape(panel.title)}</text>']
    y += HEAD - GAP
    for label, row in panel.rows.items():
        y += GAP
        at = f'x="{LABEL - 10}" y="{y + BAR * len(row) / 2 + 4:.0f}"'
        parts.append(f'<text class="label" {at}>{escape(label)}</text>')
        for name, value in row.items():
            length = (WIDTH - LABEL - END) * value / most
            parts.append(
                f'<rect class="{SERIES[name]}" x="{LABEL}" y="{y}" width="{length:.1f}" '
                f'height="{BAR - 2}"/><text class="note" x="{LABEL + length + 6:.1f}" '
                f'y="{y + BAR - 2}">{value:g}</text>'
            )
            y += BAR
    return parts, y + HEAD // 2


def _legend(series: Sequence[str]) -> Iterator[str]:
    for place, name in enumerate(series):
        x = LABEL + 140 * place
        yield f'<rect class="{SERIES[name]}" x="{x}" y="40" width="12" height="10"/>'
        yield f'<text x="{x + 18}" y="49">{name}</text>'


def draw_dots(title: str, rows: Mapping[str, Sequence[float]]) -> str:
    """A row of dots for each, over one axis of seconds."""
    end = 5 * (int(max(map(max, rows.values())) / 5) + 1)
    bottom = TOP + ROW * len(rows)
    scale = (WIDTH - LABEL - 30) / end
    parts: list[str] = []
    for second in range(0, end + 1, 5):
        x = LABEL + second * scale
        parts.append(f'<path class="axis" d="M{x:.1f} {TOP - 12}V{bottom}"/>')
        parts.append(f'<text class="note middle" x="{x:.1f}" y="{bottom + 16}">{second} s</text>')
    for place, (label, values) in enumerate(rows.items()):
        y = TOP + ROW * place + 6
        parts.append(f'<text class="label" x="{LABEL - 14}" y="{y + 4}">{escape(label)}</text>')
        parts += [
            f'<circle class="dot" cx="{LABEL + value * scale:.1f}" cy="{y}" r="5"/>'
            for value in values
        ]
    return _page(title, parts, bottom + 24)


def _page(title: str, parts: Sequence[str], height: int) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'width="{WIDTH}" height="{height}">\n<title>{escape(title)}</title>\n'
        f'<style>{STYLE}</style>\n<rect class="paper" width="{WIDTH}" height="{height}"/>\n'
        f'<text class="title" x="20" y="24">{escape(title)}</text>\n{body}\n</svg>\n'
    )


def plots(docs: Path = DOCS) -> dict[str, str]:
    """Every plot, by the name of its file."""
    compare, chaos = ((docs / name).read_text() for name in ("compare.md", "chaos.md"))
    return {
        "rates.svg": draw_bars("Throughput: longer is better", rates(compare)),
        "waits.svg": draw_bars("Kept waiting: shorter is better", waits(compare)),
        "pauses.svg": draw_dots("From a fault to the next token of the answer", pauses(chaos)),
    }


def main(arguments: Sequence[str]) -> int:
    """Write or check all; returns the exit code."""
    stale = []
    for name, drawn in plots().items():
        path = FOLDER / name
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(drawn)
        elif not path.exists() or path.read_text() != drawn:
            stale.append(name)
    if stale:
        print(f"not current: {', '.join(stale)}: run scripts/draw_plots.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
