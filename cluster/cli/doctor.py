"""`tandem doctor`: what is wrong with this machine, and the command that mends it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cluster.cli.options import KV_PRIVACY
from cluster.cli.server import DEFAULT_URL, ApiKey, Authority, Url, connect, get
from cluster.cli.status import parse_view
from cluster.core.errors import SetupError, VersionMismatch
from cluster.core.facts import Finding, Level
from cluster.core.versions import versions
from cluster.node.findings import of_machine, of_nodes, of_pairs
from cluster.node.survey import survey

ANSWER_SECONDS = 4.0
"""For the server; machines are slow to say that nobody is there only beyond loopback."""
CLOCK_SECONDS = 5.0
"""The server's date has no parts of a second, and it took a moment to come."""

STYLES = {Level.OK: "green", Level.NOTE: "dim", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def doctor(
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    ca: Authority = None,
    kv_dir: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder for prefixes, as `tandem serve` has it: is there room? {KV_PRIVACY}",
            metavar="DIR",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print facts and findings as one JSON object.")
    ] = False,
) -> None:
    """Find what keeps this machine from being a fast part of a cluster.

    Looks at Thunderbolt and RDMA, firewall, mDNS, clock, memory, disk, matrix library and, where
    a server runs, at its nodes. Changes nothing, and is done within 10 seconds. Run it on every
    machine. Exit code 0: no problem. 1: one or more.

    **Examples**

        tandem doctor
        tandem doctor --url 192.168.1.10:8642 --kv-dir /var/lib/tandem/kv
        tandem doctor --json | jq -r '.findings[] | select(.mend != "") | .mend'
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    prefixes = kv_dir.expanduser() if kv_dir else None
    with ThreadPoolExecutor(max_workers=1) as pool:
        looking = pool.submit(survey, Path(HF_HUB_CACHE), prefixes)
        of_server = ask_server(url, key, ca)
        facts = looking.result()
    findings = [*of_machine(facts), *of_server]
    if as_json:
        typer.echo(json.dumps({"facts": asdict(facts), "findings": [asdict(f) for f in findings]}))
    else:
        Console(highlight=False).print(drawn(findings))
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


def ask_server(url: str, key: str | None, authority: Path | None) -> list[Finding]:
    """Findings about the cluster of the server at `url`, if one answers.

    Raises BadConfiguration for an address, key or certificate that makes no sense.
    """
    with connect(url, key, authority) as client:
        client.timeout = httpx.Timeout(ANSWER_SECONDS)
        dates: list[str] = []
        client.event_hooks["response"] = [lambda r: dates.append(r.headers.get("date", ""))]
        try:
            view = parse_view(get(client, "/cluster"))
        except VersionMismatch as error:
            return [Finding("Cluster", Level.PROBLEM, str(error), "git pull && scripts/setup")]
        except SetupError as error:
            return [Finding("Cluster", Level.NOTE, str(error))]
    found = of_nodes(view.nodes, versions()) + of_pairs(view.links)
    if not view.health.ok:
        found.append(Finding("Cluster", Level.PROBLEM, view.health.reason, "tandem status"))
    for date in dates:
        found += clock_beside(date, datetime.now(UTC))
    return found


def clock_beside(date: str, now: datetime) -> list[Finding]:
    """A finding if a server's Date header and this machine's time are further apart than the way
    between them explains."""
    with suppress(ValueError):
        ahead = (now - parsedate_to_datetime(date)).total_seconds()
        if abs(ahead) > CLOCK_SECONDS:
            side = "ahead of" if ahead > 0 else "behind"
            text = f"this machine's clock is {abs(ahead):.0f} s {side} the server's"
            return [Finding("Cluster", Level.WARNING, text, "tandem doctor  # on both: clock")]
    return []


def drawn(findings: Iterable[Finding]) -> RenderableType:
    """Findings by topic, each with what mends it below, and what to do next."""
    parts: list[RenderableType] = []
    by_topic: dict[str, list[Finding]] = {}
    for finding in findings:
        by_topic.setdefault(finding.topic, []).append(finding)
    for topic, found in by_topic.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(width=max(map(len, Level)), no_wrap=True)
        table.add_column(overflow="fold")
        for finding in found:
            table.add_row(Text(finding.level, style=STYLES[finding.level]), finding.text)
            if finding.mend:
                table.add_row("", Text(f"$ {finding.mend}", style="cyan"))
        parts += [Text(topic, style="bold"), Padding(table, (0, 0, 1, 2))]
    return Group(*parts, Text(advice([f for each in by_topic.values() for f in each])))


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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
