"""`tandem`: finds the verb, imports it alone, and turns what it raises into one line.

Only the verb that was asked for is imported, so that `tandem --help` answers at once.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from cluster.core.errors import TandemError
from cluster.core.versions import versions

VERBS = {
    "serve": "Serve a model to OpenAI clients, on this machine or several.",
    "worker": "Lend this machine to a server that runs on another one.",
    "token": "Make, list and revoke the tokens that machines join a cluster with.",
    "node": "List the machines of a cluster, revoke one, or free one to be unplugged.",
    "status": "Show nodes, ranks, memory, live requests and speed of a running server.",
    "plan": "Show on which machines a model fits, and how fast it is predicted to be.",
    "chat": "Talk to the served model in this terminal.",
    "trace": "Fetch what happened to a request and when, for Perfetto.",
    "doctor": "Find what keeps machines from being a fast cluster.",
    "bench": "Measure an OpenAI-compatible server under load: TTFT, ITL, throughput, goodput.",
    "key": "Make, list and revoke the API keys that clients of a server need.",
    "version": "Show the versions of Tandem and of all that it runs on.",
    "report": "Collect what a bug report needs, without secrets, in one file.",
}
"""Each verb's summary, for `tandem --help`; the module and its function carry its name."""

HELP = """A few machines serve one large language model together.

Run `tandem serve` and point any OpenAI client at http://127.0.0.1:8642/v1.
With more machines, run `tandem worker` on each of the others.
"""

EPILOG = "Every command explains itself, with examples: `tandem serve --help`"


def main() -> None:
    """Entry point of the `tandem` command, and of the shell's questions what may follow."""
    build(asked_for(sys.argv, os.environ))(prog_name="tandem")


def asked_for(arguments: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The verb of a command line; None while there is none."""
    words = arguments[1:]
    if "_TANDEM_COMPLETE" in environ:  # typer's scripts for shells have the line in one of these
        line = environ.get("COMP_WORDS") or environ.get("_TYPER_COMPLETE_ARGS", "")
        words = line.split()[1:]
    return next((word for word in words if not word.startswith("-")), None)


def build(verb: str | None) -> typer.Typer:
    """The command line with `verb` imported, and of the other verbs the summary only."""
    app = typer.Typer(
        epilog=EPILOG,
        rich_markup_mode="markdown",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=HELP)(_root)
    for name, summary in VERBS.items():
        if name == verb:
            function = getattr(importlib.import_module(f"cluster.cli.{name}"), name)
            app.command(name)(_one_line_errors(function))
        else:
            app.command(name, help=summary)(_not_imported)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandem {versions().tandem}")
        raise typer.Exit


def _root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Takes the options that stand before the verb."""


def _not_imported() -> None:
    raise AssertionError("only the verb that was asked for is ever run")


def _one_line_errors(function: Callable[..., None]) -> Callable[..., None]:
    """What Tandem raises on purpose becomes one line and exit code 1; Ctrl-C is quiet."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> None:
        code = 0
        try:
            function(*args, **options)
        except KeyboardInterrupt:
            code = 130
        except TandemError as error:
            code = _complain([error])
        except BaseExceptionGroup as group:  # from a task group
            ours, others = group.split(TandemError)
            if ours is None or others is not None:
                raise
            code = _complain(_leaves(ours))
        # What the error and its frames held goes now. Channels of gRPC that only go when Python
        # is being torn down take their thread with them, and with it, at times, the exit code.
        gc.collect()
        if code:
            raise typer.Exit(code)

    return run


def _complain(errors: list[BaseException]) -> int:
    """Say it in one line for each; the exit code."""
    for line in dict.fromkeys(" ".join(str(error).split()) for error in errors):
        typer.echo(f"tandem: {line}", err=True)
    return 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
