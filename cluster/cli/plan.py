"""`tandem plan`: where a model would fit, and how fast it would be, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.serve import Parallel

if TYPE_CHECKING:
    from cluster.placement.fit import Model

CONTEXT = 32768
"""Positions that are planned for unless told otherwise, or the model's own if that is less."""


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder, a Hugging Face id (only its config.json is fetched), a config.json "
            "alone, or `demo`.",
            show_default=False,
        ),
    ],
    nodes: Annotated[
        Path | None,
        typer.Option(
            help="YAML file that describes machines, those you do not have among them "
            "(docs/plan.md). Without it: this machine.",
            metavar="SPEC",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens that each sequence may hold.",
            min=1,
            max=1 << 30,
            show_default=f"{CONTEXT}, or the model's own if less",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(help="Sequences at the same time.", min=1, max=1024)
    ] = 1,
    kv_bits: Annotated[
        int | None,
        typer.Option(
            help="Bits of a value in the KV cache, 8 or 4. Without it: the model's own type.",
            metavar="8|4",
        ),
    ] = None,
    parallel: Annotated[
        Parallel, typer.Option(help="How several ranks may share the model.")
    ] = Parallel.AUTO,
    fastest: Annotated[
        bool,
        typer.Option(
            "--fastest",
            help="Choose what is predicted to decode fastest. Without it: as many ranks as fit.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """Show on which machines a model fits, and how fast it is predicted to be.

    Nothing is loaded: memory follows from the model's config, and speed from the memory
    bandwidth of chips and the latency of links. Predictions are no measurements.

    Exit code 0: it fits. 1: it does not, and what would fit is said.

    **Examples**

        tandem plan mlx-community/Qwen3-4B-4bit
        tandem plan config.json --nodes four-m3-ultra.yaml --context 131072
        tandem plan ./model --nodes macs.yaml --concurrency 8 --kv-bits 8 --json
    """
    # Imported here so that `tandem plan --help` answers at once.
    from rich.console import Console

    from cluster.cli.choices import Report, as_data, picture
    from cluster.cli.spec import read_spec, this_machine
    from cluster.core.errors import DoesNotFit
    from cluster.model.folder import model_id
    from cluster.placement.fit import Demand
    from cluster.placement.place import Objective, consider, place

    spec = read_spec(nodes) if nodes else this_machine()
    whole, longest, exact = _model(model)
    demand = Demand(context or min(CONTEXT, longest), concurrency, kv_bits or 0, parallel.value)
    refusal = None
    try:
        placement = place(
            whole,
            demand,
            spec.nodes,
            spec.links,
            objective=Objective.FASTEST if fastest else Objective.LARGEST,
        )
        considered, chosen = placement.considered, placement.chosen
    except DoesNotFit as error:
        considered, chosen, refusal = consider(whole, demand, spec.nodes, spec.links), None, error
    report = Report(
        model=model_id(model),
        weight_bytes=sum(whole.sizes.values()),
        exact=exact,
        demand=demand,
        nodes=spec.nodes,
        considered=considered,
        chosen=chosen,
        would_fit=refusal.options if refusal else (),
    )
    if as_json:
        typer.echo(as_data(report))
    else:
        console = Console(highlight=False)
        console.print(picture(report, console.width))
    if refusal:
        raise refusal


def _model(name: str) -> tuple[Model, int, bool]:
    """(the model, the longest context it was made for, whether the sizes of its tensors are
    those of its files)."""
    from cluster.model.config import context_length
    from cluster.model.folder import describe
    from cluster.placement.fit import Model
    from cluster.placement.parameters import weight_sizes

    config, sizes = describe(name)
    whole = Model(config, weight_sizes(config) if sizes is None else sizes)
    return whole, context_length(config), sizes is not None
