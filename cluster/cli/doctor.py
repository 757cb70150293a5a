"""`tandem doctor`: what is wrong with machines, and the commands that mend it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from cluster.cli.findings import plain, show
from cluster.cli.options import KV_PRIVACY
from cluster.cli.server import (
    DEFAULT_URL,
    ApiKey,
    Authority,
    Url,
    complaint,
    connect,
    get,
    readable_errors,
)
from cluster.cli.status import parse_view
from cluster.core.errors import SetupError, VersionMismatch
from cluster.core.facts import Facts, Finding, Level, Survey, Surveyed
from cluster.core.view import ClusterView
from cluster.node.cluster_findings import of_clocks, of_nodes, of_others, of_pairs, with_announced
from cluster.node.findings import of_machine
from cluster.node.survey import survey
from cluster.wire.node_client import SURVEY_SECONDS
from cluster.wire.security import is_loopback, split_address

SURVEY = TypeAdapter(Survey)
NOTHING = Survey("", ())
ANSWER_SECONDS = 4.0
"""For the server; machines are slow to say that nobody is there only beyond loopback."""
FACTS_SECONDS = SURVEY_SECONDS + 3.0
"""For all its machines, which it asks at once."""
CLOCK_SECONDS = 5.0
"""The server's date has no parts of a second, and it took a moment to come."""


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
    """Find what keeps machines from being a fast cluster.

    Each finding comes with the command that mends it; nothing is changed. Looks at this machine:
    Thunderbolt and RDMA, firewall, mDNS, clock, memory, disk, matrix library. On the machine that
    serves, every machine of the cluster is asked for the same, and shown beside it are latency and
    throughput of each pair, and whether mDNS passes both ways. Takes up to 10 seconds, up to 20
    where machines do not answer.

    Exit code 0: no problem, though there may be warnings. 1: one or more on any machine, or it
    could not look.

    **Examples**

        tandem doctor
        tandem doctor --kv-dir /var/lib/tandem/kv
        tandem doctor --json | jq -r '.findings[].mend'
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    prefixes = kv_dir.expanduser() if kv_dir else None
    with ThreadPoolExecutor(max_workers=1) as pool:
        looking = pool.submit(survey, Path(HF_HUB_CACHE), prefixes)
        seen = ask_server(url, key, ca)
        facts = looking.result()
    findings = [plain(each) for each in [*of_machine(facts), *of_cluster(seen, facts)]]
    if as_json:
        machines = [asdict(each) for each in seen.survey.machines]
        answer = {
            "facts": asdict(facts),
            "machines": machines,
            "findings": [asdict(f) for f in findings],
        }
        typer.echo(json.dumps(answer))
    else:
        show(Console(highlight=False), findings)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server has told, as far as one answers."""

    view: ClusterView | None = None
    survey: Survey = NOTHING
    trouble: tuple[Finding, ...] = ()
    """What it did not tell, and why; and of its clock."""


def ask_server(url: str, key: str | None, authority: Path | None) -> Seen:
    """What the server at `url` tells of its cluster and of every machine.

    Raises BadConfiguration for an address, key or certificate that makes no sense.
    """
    with connect(url, key, authority) as client:
        client.timeout = httpx.Timeout(ANSWER_SECONDS)
        trouble: list[Finding] = []

        def look_at_clock(response: httpx.Response) -> None:
            trouble.extend(clock_beside(response.headers.get("date", ""), datetime.now(UTC)))

        client.event_hooks["response"] = [look_at_clock]
        try:
            view = parse_view(get(client, "/cluster"))
            client.event_hooks["response"] = []
        except VersionMismatch as error:
            mend = "git pull && scripts/setup"
            return Seen(trouble=(Finding("Cluster", Level.PROBLEM, str(error), mend),))
        except SetupError as error:
            return Seen(trouble=(Finding("Cluster", Level.NOTE, str(error)),))
        client.timeout = httpx.Timeout(FACTS_SECONDS)
        told = ask_machines(client)
    if isinstance(told, str):
        text = f"no findings of other machines: {told}"
        return Seen(view, trouble=(*trouble, Finding("Cluster", Level.NOTE, text)))
    return Seen(view, told, tuple(trouble))


def ask_machines(client: httpx.Client) -> Survey | str:
    """What every machine has told the server, or why that is not to be had."""
    try:
        with readable_errors(client):
            response = client.get("/cluster/facts")
    except SetupError as error:
        return str(error)
    if response.status_code == 401:  # the key is good: it has just opened something else
        return "run this on the machine that serves, with --url at its default or on 127.0.0.1"
    if response.is_error:
        return complaint(response)
    try:
        return SURVEY.validate_json(response.content)
    except ValidationError:
        return "the server tells them in other terms than this command"


def of_cluster(seen: Seen, own: Facts) -> list[Finding]:
    """Findings about the server's machines, but for what `own` has of this one already."""
    if seen.view is None:
        return list(seen.trouble)
    machines = seen.survey.machines
    found = of_nodes(machines or seen.view.nodes, own.versions)
    if not seen.view.health.ok:
        health = Finding("Cluster", Level.PROBLEM, seen.view.health.reason, "tandem status")
        found.append(health)
    others = [each for each in machines if each.facts is None or not is_here(each, own)]
    pairs = with_announced(seen.view.links, machines)
    found += [*seen.trouble, *of_clocks(machines), *of_pairs(pairs, seen.survey)]
    return found + of_others(others)


def is_here(machine: Surveyed, own: Facts) -> bool:
    """The agent runs on this machine."""
    host, _ = split_address(machine.agent_address)
    ours = is_loopback(host) or any(address.ip == host for address in own.addresses)
    return ours and machine.hostname == own.hostname


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
