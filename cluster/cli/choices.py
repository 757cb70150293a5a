"""A plan as a table or as JSON. Pure: choices in, something to print out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.cli.picture import size
from cluster.placement.fit import Demand, Node
from cluster.placement.place import Choice
from cluster.placement.speed import SHORT


@dataclass(frozen=True, slots=True)
class Report:
    """What a plan came to."""

    model: str
    weight_bytes: int
    """Of the whole model."""
    exact: bool
    """They are those of its files, not worked out from its config."""
    demand: Demand
    nodes: Sequence[Node]
    considered: Sequence[Choice]
    chosen: Choice | None
    would_fit: tuple[str, ...]
    """Where nothing was chosen."""


WIDE = 110
"""Columns from which on a table says what memory is for."""


def picture(report: Report, columns: int) -> RenderableType:
    """Everything a person wants to know of a plan, on a terminal of so many columns."""
    parts: list[RenderableType] = [_summary(report), Text(), _nodes(report), Text()]
    parts.append(_choices(report, wide=columns >= WIDE))
    if report.chosen and report.chosen.layers:
        parts += [Text(), _stages(report, report.chosen)]
    if report.chosen:
        parts += [Text(), *(Text(line) for line in _notes(report, report.chosen))]
    return Group(*parts)


def as_data(report: Report) -> str:
    """The same for programs: bytes, tokens per second and shares."""
    return json.dumps(
        {
            "model": report.model,
            "weight_bytes": report.weight_bytes,
            "weights_from": "files" if report.exact else "config",
            "demand": asdict(report.demand),
            "nodes": [{"id": n.id, "usable_bytes": n.usable_bytes} for n in report.nodes],
            "chosen": _choice(report.chosen) if report.chosen else None,
            "considered": [_choice(choice) for choice in report.considered],
            "would_fit": list(report.would_fit),
        },
        indent=2,
        ensure_ascii=False,
    )


def _choice(choice: Choice) -> dict[str, Any]:
    memory, speed = choice.memory, choice.speed
    return {
        "world": choice.world,
        "kind": choice.kind,
        "fits": choice.fits,
        "reason": choice.reason,
        "nodes": list(choice.nodes),
        "memory": {**asdict(memory), "total": memory.total} if memory else None,
        "usable_bytes": choice.usable_bytes,
        "layers": list(choice.layers),
        "stages": [{**asdict(stage), "total": stage.total} for stage in choice.stages],
        "predicted": asdict(speed) if speed else None,
    }


def _summary(report: Report) -> RenderableType:
    demand = report.demand
    source = "its files" if report.exact else "worked out from its config"
    sequences = "1 sequence" if demand.sequences == 1 else f"{demand.sequences} sequences"
    bits = f", KV cache in {demand.kv_bits} bits" if demand.kv_bits else ""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    grid.add_row("model", f"{report.model}, {size(report.weight_bytes)} of weights ({source})")
    grid.add_row("asked", f"{sequences} with a context of {demand.context} tokens{bits}")
    return grid


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right")
    return table


def _nodes(report: Report) -> Table:
    table = _table("Machines", ["machine"], ["usable", "bandwidth"])
    for node in report.nodes:
        speed = f"{node.chip.bandwidth / 1e9:.0f} GB/s" if node.chip else "not known"
        table.add_row(node.id, size(node.usable_bytes), speed)
    return table


def _choices(report: Report, *, wide: bool) -> Table:
    """A row for each choice; the chosen one is marked."""
    table = _table(
        "Choices (speeds in tok/s are predictions)",
        ["", "ranks", "each needs", *(["weights + KV + working"] if wide else [])],
        ["decode", "at full", "prefill"],
    )
    table.add_column("", overflow="fold")
    for choice in report.considered:
        chosen = choice is report.chosen
        memory, speed = choice.memory, choice.speed
        parts = (memory.weights, memory.kv, memory.working) if memory else ()
        numbers = (speed.decode, speed.decode_full, speed.prefill) if speed else ()
        table.add_row(
            "*" if chosen else "",
            f"{choice.world} {choice.kind}" if choice.world > 1 else "1",
            _needs(choice, wide=wide),
            *([" + ".join(map(size, parts))] if wide else []),
            *([_rate(number) for number in numbers] or ["", "", ""]),
            _verdict(choice, chosen),
            style="bold" if chosen else "" if choice.fits else "dim",
        )
    return table


def _needs(choice: Choice, *, wide: bool) -> str:
    """Of the rank that takes most; of unequal stages, of the least and the most."""
    if choice.stages:
        totals = sorted(stage.total for stage in choice.stages)
        return f"{size(totals[0])} to {size(totals[-1])}"
    if choice.memory is None:
        return ""
    usable = f" of {size(choice.usable_bytes)}" if wide and choice.fits else ""
    return f"{size(choice.memory.total)}{usable}"


def _stages(report: Report, chosen: Choice) -> Table:
    """What each rank of unequal stages holds, the first layers first."""
    table = _table("Stages", ["layers", "rank", "machine"], ["needs", "weights + KV + working"])
    usable = {node.id: node.usable_bytes for node in report.nodes}
    first = 0
    for rank in reversed(range(chosen.world)):
        node, count, stage = chosen.nodes[rank], chosen.layers[rank], chosen.stages[rank]
        of = usable[node] // chosen.nodes.count(node)
        table.add_row(
            f"{count} ({first} to {first + count - 1})",
            str(rank),
            node,
            f"{size(stage.total)} of {size(of)}",
            " + ".join(map(size, (stage.weights, stage.kv, stage.working))),
        )
        first += count
    return table


def _rate(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}"


def _verdict(choice: Choice, chosen: bool) -> str:
    if not choice.fits:
        return choice.reason
    where = ", ".join(dict.fromkeys(choice.nodes))
    return f"on {where}" if chosen else f"on {where}: {choice.reason}"


def _notes(report: Report, chosen: Choice) -> list[str]:
    """What the numbers mean, and what would be faster."""
    notes = []
    if chosen.speed:
        short = min(SHORT, report.demand.context)
        notes.append(
            f"Predicted for one sequence alone: decode and prefill at {short} tokens, and decode "
            f"at the full context of {report.demand.context}. Nothing was run: see docs/plan.md."
        )
        if chosen.world > 1:
            notes.append(
                f"Of each token's time, ranks wait {100 * chosen.speed.waiting:.0f}% for each "
                "other."
            )
    else:
        notes.append("No speed is predicted: the chip of a machine is not known.")
    rated = [(c.speed.decode, c) for c in report.considered if c.speed]
    best, fastest = max(rated, key=lambda pair: pair[0], default=(0.0, chosen))
    if chosen.speed and best > 1.05 * chosen.speed.decode:
        ranks = "1 rank" if fastest.world == 1 else f"{fastest.world} ranks ({fastest.kind})"
        notes.append(f"{ranks} would be faster: {_rate(best)} tok/s, with --fastest.")
    return notes
