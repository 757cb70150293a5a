"""Plots show what their tables say, and are current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
sys.path.append(str(ROOT / "scripts"))

import draw_plots  # noqa: E402


def test_they_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "draw_plots.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_rows_of_the_tables_that_begin_so() -> None:
    head = "| a | b |\n|---|---|\n"
    page = f"{head}| 1 | 2 |\n\n| c |\n|---|\n| 3 |\ntext\n{head}| 4 | 5 |\n"
    assert draw_plots.rows_of(page, "a") == [["1", "2"], ["4", "5"]]
    with pytest.raises(ValueError, match="no table begins with 'x'"):
        draw_plots.rows_of(page, "x")


def test_figures_are_those_of_the_tables() -> None:
    compare = (ROOT / "docs" / "compare.md").read_text()
    rates = draw_plots.rates(compare)
    first = rates[0].rows["one stream"]
    assert f"| demo | 1 | one stream, decode | {first['Tandem']:g} tok/s |" in compare
    assert all(set(row) == set(draw_plots.SERIES) for each in rates for row in each.rows.values())
    pauses = draw_plots.pauses((ROOT / "docs" / "chaos.md").read_text())
    assert len(pauses) == 10 and all(len(row) == 6 for row in pauses.values())


def test_bars_are_as_long_as_their_figures() -> None:
    panel = draw_plots.Panel("t & u", {"r": {"Tandem": 10.0, "mlx_lm.server": 40.0}})
    drawn = draw_plots.draw_bars("title", [panel])
    ElementTree.fromstring(drawn)
    widths = re.findall(r'class="(?:ours|server)" x="\d+" y="\d+" width="([\d.]+)"', drawn)
    ours, theirs = (float(width) for width in widths if float(width) != 12)
    assert theirs == pytest.approx(4 * ours, rel=0.01)


def test_dots_lie_on_the_axis_of_seconds() -> None:
    drawn = draw_plots.draw_dots("title", {"r": [0.0, 5.0]})
    ElementTree.fromstring(drawn)
    zero, five = (float(x) for x in re.findall(r'cx="([\d.]+)"', drawn))
    assert f'x="{zero:.1f}"' in drawn and f'x="{five:.1f}"' in drawn
