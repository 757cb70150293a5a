"""Draws the diagrams of docs/how-it-works.md into docs/diagrams, as SVG that fits light and dark.

With `--check`, writes nothing and fails when a drawing is not current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "diagrams"

LANE, TOP, ROW, CHARACTER = 165, 58, 34, 6.7
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1d2733 }
.who { font-weight: 600; text-anchor: middle } .middle { text-anchor: middle }
.note { fill: #5b6875 } .lost, .bad-head { fill: #b3402f } .head { fill: #2f6fb3 }
.box { fill: #e8eef6; stroke: #7f93ab } .line { stroke: #b4c0cd; stroke-dasharray: 3 4 }
.arrow { stroke: #2f6fb3; stroke-width: 1.6 } .bad { stroke: #b3402f } .paper { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e9ef } .note { fill: #9fb0c2 } .lost, .bad-head { fill: #e88474 }
  .box { fill: #263341; stroke: #5c738c } .line { stroke: #45525f } .paper { fill: #12181f }
  .arrow { stroke: #74aee8 } .head { fill: #74aee8 } .bad { stroke: #e88474 }
}
"""


@dataclass(frozen=True)
class Say:
    """An arrow from one lane to another; a note when both are the same. `bad` is a fault."""

    source: int
    target: int
    words: str
    bad: bool = False


@dataclass(frozen=True)
class Exchange:
    """Who speaks to whom, from the top down."""

    title: str
    lanes: Sequence[str]
    rows: Sequence[Say]


REQUEST = Exchange(
    "The life of a request, on two ranks",
    ("client", "API", "coordinator", "rank 0", "rank 1"),
    (
        Say(0, 1, "POST /v1/chat/completions"),
        Say(1, 2, "order: token ids, limits"),
        Say(2, 2, "channel, then queue"),
        Say(1, 0, "headers, at once"),
        Say(2, 3, "step 1: prefill 0..511"),
        Say(2, 4, "the same step 1"),
        Say(2, 3, "step 2: prefill 512..900"),
        Say(4, 3, "all_sum, in every layer"),
        Say(3, 2, "result 1"),
        Say(1, 0, ": prefill 512/900"),
        Say(3, 2, "result 2: first token"),
        Say(4, 2, "result 2: same digest"),
        Say(2, 1, "text"),
        Say(1, 0, "data: {...}"),
        Say(2, 3, "step 3: decode"),
        Say(3, 2, "result n: end of answer"),
        Say(1, 0, "data: [DONE]"),
        Say(2, 3, "step n+1: park the slot"),
    ),
)

CANCEL = Exchange(
    "A client hangs up in a long prefill",
    ("client", "API", "coordinator", "rank 0", "rank 1"),
    (
        Say(2, 3, "step 7: a chunk of 250 ms"),
        Say(2, 4, "the same"),
        Say(2, 3, "step 8: the next chunk"),
        Say(0, 1, "hangs up (FIN)", bad=True),
        Say(1, 2, "cancel"),
        Say(2, 2, "an edit of the next step"),
        Say(3, 2, "result 7"),
        Say(3, 2, "result 8"),
        Say(2, 3, "step 9: park; another's chunk"),
        Say(2, 4, "the same"),
        Say(3, 3, "what is done stays a prefix"),
    ),
)

FAULT = Exchange(
    "A machine is lost in the middle of an answer",
    ("client", "coordinator", "machine A", "machine B"),
    (
        Say(1, 2, "step 40: decode"),
        Say(1, 3, "the same"),
        Say(3, 3, "power fails", bad=True),
        Say(1, 0, ": decode (a sign of life)"),
        Say(1, 1, "the step is overdue, B is silent", bad=True),
        Say(1, 2, "kill the epoch's engine"),
        Say(1, 1, "epoch 2: who is here? A alone fits"),
        Say(1, 2, "launch: new port, new secret"),
        Say(2, 1, "ready"),
        Say(1, 2, "step 1: prefill prompt + answer so far"),
        Say(2, 1, "result: the next token"),
        Say(1, 0, "the stream goes on where it was"),
        Say(3, 1, "back again: is taken in when quiet"),
    ),
)

ALL = {"request": REQUEST, "cancel": CANCEL, "fault": FAULT}


def draw(picture: Exchange) -> str:
    """The picture as one SVG file."""
    lane = max(LANE, *(len(row.words) * CHARACTER / max(1, abs(row.source - row.target)) + 30
                       for row in picture.rows if row.source != row.target))  # fmt: skip
    width = round(lane * len(picture.lanes) + 40)
    height = TOP + ROW * (len(picture.rows) + 1)
    body = "\n".join(_parts(picture, lane, height))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'width="{width}" height="{height}">\n<title>{escape(picture.title)}</title>\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="paper" width="{width}" height="{height}"/>\n{body}\n</svg>\n'
    )


def _parts(picture: Exchange, lane: float, height: int) -> Iterator[str]:
    at = [round(20 + lane * (place + 0.5)) for place in range(len(picture.lanes))]
    for x, name in zip(at, picture.lanes, strict=True):
        yield f'<rect class="box" x="{x - 52}" y="12" width="104" height="26" rx="6"/>'
        yield f'<text class="who" x="{x}" y="29">{escape(name)}</text>'
        yield f'<path class="line" d="M{x} 40V{height - 8}"/>'
    for place, row in enumerate(picture.rows):
        y = TOP + ROW * (place + 1) - 10
        source, target = at[row.source], at[row.target]
        words = escape(row.words)
        if source == target:
            kind = "lost" if row.bad else "note"
            half = len(row.words) * CHARACTER / 2 + 6
            yield (f'<rect class="paper" x="{source - half:.0f}" y="{y - 15}" '
                   f'width="{2 * half:.0f}" height="20"/>')  # fmt: skip
            yield f'<text class="{kind} middle" x="{source}" y="{y}">{words}</text>'
            continue
        way = 1 if target > source else -1
        kind = "arrow bad" if row.bad else "arrow"
        head = "bad-head" if row.bad else "head"
        yield f'<path class="{kind}" d="M{source} {y}H{target - 7 * way}"/>'
        yield (f'<path class="{head}" d="M{target} {y}l{-9 * way} -4.5v9z"/>')  # fmt: skip
        yield f'<text class="middle" x="{(source + target) / 2:.0f}" y="{y - 6}">{words}</text>'


def main(arguments: Sequence[str]) -> int:
    """Write or check all; returns the exit code."""
    stale = []
    for name, picture in ALL.items():
        path, drawn = FOLDER / f"{name}.svg", draw(picture)
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(drawn)
        elif not path.exists() or path.read_text() != drawn:
            stale.append(path.name)
    if stale:
        print(f"not current: {', '.join(stale)}: run scripts/draw_diagrams.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
