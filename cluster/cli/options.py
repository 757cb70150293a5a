"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

KV_PRIVACY = "Its files hold what people have asked; only their owner can read them."
"""Of a folder for prefixes; a part of the help of its option."""

TrustFolder = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        envvar="TANDEM_TRUST",
        help="Folder with what this machine shows of itself to the others of its cluster; on the "
        "server also with the cluster's own key. Given, it is used on loopback too. Without it: "
        "~/.config/tandem/trust.",
        metavar="DIR",
        rich_help_panel="Access",
        show_default=False,
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
