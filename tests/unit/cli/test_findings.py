"""Findings as a person sees them."""

from __future__ import annotations

from rich.console import Console

from cluster.cli.findings import plain, show
from cluster.core.facts import Finding, Level

LONG = "sudo ufw allow from 192.168.100.0/24 && sudo ufw allow from 10.20.30.0/24"


def shown(*findings: Finding, width: int = 60) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        show(console, findings)
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def test_those_of_one_topic_stand_together_with_what_mends_them() -> None:
    lines = shown(
        Finding("Disk", Level.OK, "room for models"),
        Finding("Clock", Level.WARNING, "late", "set it"),
        Finding("Disk", Level.WARNING, "little room"),
    )
    assert [" ".join(line.split()) for line in lines[:6]] == [
        "Disk", "ok room for models", "warning little room", "Clock", "warning late", "$ set it",
    ]  # fmt: skip
    assert lines[6].startswith("0 problems, 2 warnings.")


def test_those_of_another_machine_come_after_and_what_is_well_is_counted() -> None:
    lines = shown(
        Finding("Disk", Level.OK, "room", machine="mini (10.0.0.2:8644)"),
        Finding("Clock", Level.OK, "right", machine="mini (10.0.0.2:8644)"),
        Finding("Firewall", Level.PROBLEM, "closed", "open it", machine="mini (10.0.0.2:8644)"),
        Finding("Pairs", Level.OK, "a to b"),
    )
    assert [" ".join(line.split()) for line in lines[:5]] == [
        "Pairs", "ok a to b", "On mini (10.0.0.2:8644): 2 ok", "problem Firewall: closed",
        "$ open it",
    ]  # fmt: skip
    assert lines[5].startswith("1 problem, 0 warnings.")


def test_texts_are_wrapped_and_commands_are_not_so_that_they_can_be_copied() -> None:
    lines = shown(Finding("Firewall", Level.WARNING, "ufw is on: " + "all " * 20, LONG), width=40)
    (command,) = [line for line in lines if "$" in line]
    assert command.strip() == f"$ {LONG}"
    assert len(lines) > 6
    assert all(len(line) <= 40 for line in lines if line is not command)


def test_what_others_say_gives_no_orders_to_a_terminal() -> None:
    sly = "mini\x1b[2J\nrm"
    assert plain(Finding("Disk", Level.OK, sly, f"true  # on {sly}", sly)) == Finding(
        "Disk", Level.OK, "mini?[2J?rm", "true  # on mini?[2J?rm", "mini?[2J?rm"
    )
    (line,) = [x for x in shown(Finding("Disk", Level.OK, "[bold]room[/bold]")) if "room" in x]
    assert "[bold]room[/bold]" in line
