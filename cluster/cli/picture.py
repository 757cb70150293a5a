"""The cluster as tables. Pure: a view in, something to print out."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.core.cluster import NodeDescription
from cluster.core.request import Phase, Progress
from cluster.core.view import ClusterView, ModelView, RankView, RequestView

BAR = 16
"""Characters of a progress bar."""
WIDE = 110
"""Columns from which on a table tells of each engine's process."""


def picture(view: ClusterView, models: Sequence[ModelView], columns: int) -> RenderableType:
    """Everything a person wants to see of a server at one moment, on a terminal of so many
    columns: one group, and all models where there is more than one, or several groups."""
    parts: list[RenderableType] = [_summary(view), Text(), _nodes(view.nodes)]
    if view.ranks:
        parts += [Text(), _ranks(view, wide=columns >= WIDE)]
    if len(models) > 1 or any(len(model.replicas) > 1 for model in models):
        parts += [Text(), _models(models)]
    parts += [Text(), _requests(view.requests) if view.requests else Text("no live requests")]
    return Group(*parts)


def _summary(view: ClusterView) -> RenderableType:
    health = Text(view.health.reason, style="bold green" if view.health.ok else "bold red")
    demo = " (a demo: it knows little but itself)" if view.model.demo else ""
    ranks = "1 rank" if view.world == 1 else f"{view.world} ranks, {view.backend} over {view.link}"
    counters = view.counters
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    grid.add_row("model", f"{view.model.id}{demo}, context {view.model.context} tokens")
    if view.model.draft:
        grid.add_row("drafts by", view.model.draft)
    if len(view.groups) > 1:
        grid.add_row("group", f"replica {view.replica}; others: --model, --replica")
    grid.add_row("state", health)
    grid.add_row("engines", f"{ranks}, epoch {view.epoch}, {view.steps_sent} steps")
    grid.add_row(
        "speed",
        f"decode {view.decode_tokens_per_second:.1f} tok/s, "
        f"prefill {view.prefill_tokens_per_second:.0f} tok/s",
    )
    queued = sum(request.progress.phase is Phase.QUEUED for request in view.requests)
    grid.add_row(
        "requests",
        f"{len(view.requests)} live, of which {queued} queued (at most {view.queue_limit}); "
        f"{counters.parked} prefixes kept",
    )
    for member in view.members:
        if member.draining:
            free = "it is safe to unplug" if not member.ranks else "work is moved off it"
            grid.add_row("draining", f"{member.hostname}: {free}")
        elif member.presence != "alive" or not member.ranks:
            used = f"{member.ranks} ranks" if member.ranks else "not used by this epoch"
            grid.add_row("machine", f"{member.hostname}: {member.presence}, {used}")
    if view.history:
        last = view.history[-1]
        what = f"epoch {last.number} ended after {duration(last.seconds)}: {last.reason}"
        grid.add_row("before", what)
    grid.add_row("up", duration(view.uptime_seconds))
    if counters.orphan_tokens:
        warning = f"{counters.orphan_tokens} tokens had no channel: please report this"
        grid.add_row("bug", Text(warning, style="bold red"))
    return grid


def _table(title: str, left: list[str], right: list[str]) -> Table:
    """`left`, then `right`-justified columns."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold", no_wrap=name in {"agent", "rank", "endpoint"})
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _nodes(nodes: tuple[NodeDescription, ...]) -> Table:
    columns = ["node", "chip", "BLAS", "links", "agent"]
    table = _table("Nodes", columns, ["cores", "memory", "usable"])
    for node in nodes:
        links = [f"{a.ip} ({a.kind})" for a in node.addresses if a.kind != "loopback"]
        blas = node.blas.name if node.blas.fast else f"{node.blas.name}, slow"
        table.add_row(
            node.hostname,
            node.chip,
            Text(blas, style="" if node.blas.fast else "yellow"),
            ", ".join(links) or "loopback",
            node.agent_address,
            str(node.cores),
            size(node.memory_bytes),
            size(node.usable_bytes),
        )
    return table


def _ranks(view: ClusterView, *, wide: bool) -> Table:
    hostnames = {node.node_id: node.hostname for node in view.nodes}
    where, process = (["endpoint", "pid"], ["process"]) if wide else ([], [])
    columns = ["weights", "MLX", "peak", "planned", *process, "last step", "reads"]
    table = _table("Ranks", ["rank", "node", *where], columns)
    for rank in view.ranks:
        table.add_row(
            str(rank.rank),
            hostnames.get(rank.node_id, rank.node_id),
            *([rank.endpoint, str(rank.pid)] if wide else []),
            size(rank.weight_bytes),
            size(rank.memory_bytes),
            size(rank.peak_bytes),
            size(view.model.rank_bytes),
            *([size(rank.rss_bytes)] if wide else []),
            str(rank.last_seq),
            _reads(rank),
        )
    return table


def _reads(rank: RankView) -> Text:
    """How fast it reads its own weights."""
    if rank.read_bytes_per_second is None:
        return Text("-")
    speed = f"{rank.read_bytes_per_second / 1e9:.3g} GB/s"
    return Text(f"{speed}, slow", style="yellow") if rank.slow else Text(speed)


def _models(models: Sequence[ModelView]) -> Table:
    table = _table("Models", ["model", "state", "groups", "requests", "progress"], [])
    for model in models:
        up = sum(replica.epoch > 0 for replica in model.replicas)
        table.add_row(
            model.id,
            f"{model.state}, pinned" if model.pinned else model.state,
            f"{up} of {len(model.replicas)}" if model.replicas else "",
            str(model.requests),
            Text(model.error, style="red") if model.error else model.progress,
        )
    return table


def _requests(requests: tuple[RequestView, ...]) -> Table:
    several = len({(request.model, request.replica) for request in requests}) > 1
    columns = ["prompt", "cached", "generated", "age"]
    left = ["request", *(["group"] if several else []), "phase", "progress"]
    table = _table("Requests", left, columns)
    for request in requests:
        progress = request.progress
        table.add_row(
            request.id,
            *([f"{request.model} {request.replica}"] if several else []),
            progress.phase.value,
            bar(progress),
            str(progress.prompt_tokens),
            str(request.cached_tokens),
            str(progress.generated),
            duration(request.age_seconds),
        )
    return table


def bar(progress: Progress) -> str:
    """How much of the prompt is prefilled: a bar and a percentage."""
    share = min(1.0, progress.prefilled / max(1, progress.prompt_tokens))
    full = int(share * BAR)
    return f"{'█' * full}{'░' * (BAR - full)} {int(share * 100):3d}%"


def size(count: int) -> str:
    """Bytes in the largest binary unit that leaves at least 1."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds in at most two units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
