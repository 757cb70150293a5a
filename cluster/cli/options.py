"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

KV_PRIVACY = "Its files hold what people have asked; only their owner can read them."
"""Of a folder for prefixes; a part of the help of its option."""

TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the join token that the machines of one cluster share. Without it: "
        "TANDEM_JOIN_TOKEN from the environment. Needed beyond loopback.",
        metavar="PATH",
    ),
]

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar="TANDEM_KEY_FILE",
        help="File with the API keys that `tandem key` makes. Without it: "
        "~/.config/tandem/keys.json.",
        metavar="PATH",
        rich_help_panel="Access",
        show_default=False,
    ),
]
