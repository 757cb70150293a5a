"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the join token that the machines of one cluster share. Without it: "
        "TANDEM_JOIN_TOKEN from the environment. Needed beyond loopback.",
        metavar="PATH",
    ),
]
