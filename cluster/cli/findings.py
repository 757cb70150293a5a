"""Findings as `tandem doctor` shows them to a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cluster.core.facts import Finding, Level

STYLES = {Level.OK: "green", Level.NOTE: "dim", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def plain(finding: Finding) -> Finding:
    """Without what a terminal or a shell would take for orders: some of it was told by others."""
    text, mend, machine = (
        "".join(letter if letter.isprintable() else "?" for letter in each)
        for each in (finding.text, finding.mend, finding.machine)
    )
    return replace(finding, text=text, mend=mend, machine=machine)


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Findings by topic, each with what mends it below; then those of each other machine, of which
    what is well is only counted; then what to do next."""
    by_topic: dict[str, list[Finding]] = {}
    by_machine: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.machine:
            by_machine.setdefault(finding.machine, []).append(finding)
        else:
            by_topic.setdefault(finding.topic, []).append(finding)
    for topic, found in by_topic.items():
        console.print(Text(topic, style="bold"))
        for finding in found:
            _show(console, finding, finding.text)
        console.print()
    for machine, found in by_machine.items():
        amiss = [finding for finding in found if finding.level is not Level.OK]
        console.print(Text(f"On {machine}: {len(found) - len(amiss)} ok", style="bold"))
        for finding in amiss:
            _show(console, finding, f"{finding.topic}: {finding.text}")
        console.print()
    console.print(Text(advice(findings)))


def _show(console: Console, finding: Finding, text: str) -> None:
    """The text in a column of its own; the command in one line, however long, to be copied."""
    width = max(map(len, Level))
    table = Table.grid(padding=(0, 2))
    table.add_column(width=width, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(finding.level, style=STYLES[finding.level]), Text(text))
    console.print(Padding(table, (0, 0, 0, 2)))
    if finding.mend:
        indent = " " * (width + 4)
        console.print(Text(f"{indent}$ {finding.mend}", style="cyan"), soft_wrap=True)


def advice(findings: Iterable[Finding]) -> str:
    """What to do next, in one line."""
    levels = [finding.level for finding in findings]
    problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
    counted = (
        f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    )
    if problems:
        return f"{counted}. Next: the commands below each problem, then `tandem doctor` again"
    if warnings:
        return f"{counted}. It works as it is; the commands below the warnings make it better"
    return "Nothing to mend. Next: `tandem serve` here, or `tandem worker --join HOST:PORT`"
