"""`tandem version`: what runs on this machine, as a bug report needs it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cluster.node.software import Software

GIB = 2**30


def version(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """Show the versions of Tandem and of all that it runs on.

    Everything a bug report needs to say of a machine; `tandem --version` is the one line of it
    that scripts need.

    **Examples**

        tandem version
        tandem version --json | jq -r .packages.mlx
    """
    from cluster.node.software import read_software  # here, so that --help answers at once

    found = read_software()
    typer.echo(json.dumps(asdict(found), indent=2) if as_json else lines(found))


def lines(found: Software) -> str:
    """What people read: a name and a value in each line."""
    blas = found.blas.name + (f" ({found.blas.preload})" if found.blas.preload else "")
    if not found.blas.fast:
        blas += f": {found.blas.advice}"
    memory, usable = (number / GIB for number in (found.memory_bytes, found.usable_bytes))
    rows = {
        "tandem": f"{found.tandem}, protocol {found.protocol}",
        "installed by": found.installed,
        "python": f"{found.python}, {found.executable}",
        "system": found.system,
        "chip": f"{found.chip}, {found.cores} cores",
        "memory": f"{memory:.1f} GiB, {usable:.1f} for engines",
        "computes on": ", ".join(found.backends) or "nothing: mlx is not installed",
        "matrix library": blas,
        **found.packages,
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name:{width}}{value}" for name, value in rows.items())
