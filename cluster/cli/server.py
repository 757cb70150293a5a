"""A running server as `status` and `chat` see it: over HTTP, with errors worth reading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer

from cluster.core.errors import BadConfiguration, SetupError

DEFAULT_URL = "http://127.0.0.1:8642"

Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="TANDEM_URL",
        help="Where the server listens.",
        metavar="URL",
    ),
]

SILENCE = 60.0
"""Seconds without a byte after which we give up; a live server writes at least every 5 s."""


def connect(url: str) -> httpx.Client:
    """A client for the server at `url`, of which the scheme may be left out.

    Raises BadConfiguration when it is no address. Proxies of the environment are not used: a
    cluster's machines reach each other directly.
    """
    if "://" not in url:
        url = f"http://{url}"
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadConfiguration(f"--url {url} is no address; it looks like {DEFAULT_URL}")
    timeout = httpx.Timeout(SILENCE, connect=5.0)
    return httpx.Client(base_url=parsed, timeout=timeout, trust_env=False)


@contextmanager
def readable_errors(client: httpx.Client) -> Iterator[None]:
    """What can go wrong between us and the server, as a SetupError that says what to do."""
    url = str(client.base_url).rstrip("/")
    try:
        yield
    except httpx.ConnectError as error:
        raise SetupError(
            f"no server answers at {url}: start one with `tandem serve`, or say where it is "
            "with --url"
        ) from error
    except httpx.TimeoutException as error:
        raise SetupError(
            f"the server at {url} does not answer: it may be stuck, or behind a firewall; look "
            "at its own output"
        ) from error
    except httpx.TransportError as error:
        raise SetupError(f"the connection to {url} broke off: {error}") from error


def get(client: httpx.Client, path: str) -> Any:
    """The JSON that the server answers at `path`; raises SetupError for anything else."""
    with readable_errors(client):
        response = client.get(path)
    if response.is_error:
        raise SetupError(complaint(response))
    try:
        return response.json()
    except ValueError as error:
        raise SetupError(f"what answers at {client.base_url} is no Tandem server") from error


def complaint(response: httpx.Response) -> str:
    """The message of an error response whose body was read, else its status."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"the server answered {response.status_code} to {response.request.url}"
