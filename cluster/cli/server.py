"""A running server as `status` and `chat` see it: over HTTP, with errors worth reading."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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

ApiKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="TANDEM_API_KEY",
        help="API key, where the server asks for one. Better in the environment: others on this "
        "machine see the command line.",
        metavar="KEY",
        show_default=False,
    ),
]

Authority = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="TANDEM_CA",
        help="Certificate (PEM) to trust, for an https server that has made its own.",
        metavar="PATH",
        show_default=False,
    ),
]

SILENCE = 60.0
"""Seconds without a byte after which we give up; a live server writes at least every 5 s."""


def connect(url: str, key: str | None = None, authority: Path | None = None) -> httpx.Client:
    """A client for the server at `url`, of which the scheme may be left out.

    Raises BadConfiguration when it is no address, `key` is no key or `authority` no certificate.
    Proxies of the environment are not used: a cluster's machines reach each other directly.
    """
    if "://" not in url:
        url = f"http://{url}"
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadConfiguration(f"--url {url} is no address; it looks like {DEFAULT_URL}")
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise BadConfiguration("the API key has characters that no key has: is it mistyped?")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    verify = _trusting(authority) if authority and parsed.scheme == "https" else True
    timeout = httpx.Timeout(SILENCE, connect=5.0)
    return httpx.Client(
        base_url=parsed, headers=headers, verify=verify, timeout=timeout, trust_env=False
    )


def _trusting(authority: Path) -> ssl.SSLContext:
    """Trusts what `authority` has signed, and nothing else."""
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:  # of which SSLError is one
        raise BadConfiguration(f"--ca {authority} is no certificate: {error}") from error


@contextmanager
def readable_errors(client: httpx.Client) -> Iterator[None]:
    """What can go wrong between us and the server, as a SetupError that says what to do."""
    url = str(client.base_url).rstrip("/")
    try:
        yield
    except httpx.ConnectError as error:
        if (reason := _tls_failure(error)) is not None:
            raise SetupError(f"can't speak https with {url}: {reason}") from error
        raise SetupError(
            f"no server answers at {url}: start one with `tandem serve`, or say where it is "
            "with --url"
        ) from error
    except httpx.TimeoutException as error:
        raise SetupError(
            f"the server at {url} does not answer: it may be stuck, or behind a firewall; look "
            "at its own output"
        ) from error
    except httpx.RemoteProtocolError as error:
        hint = " (if it speaks https, say so in --url)" if url.startswith("http:") else ""
        raise SetupError(f"the connection to {url} broke off: {error}{hint}") from error
    except httpx.TransportError as error:
        raise SetupError(f"the connection to {url} broke off: {error}") from error


def _tls_failure(error: BaseException | None) -> str | None:
    """Why two sides could not agree on an encrypted connection; None when that was not it."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({error.verify_message}); name the one to trust "
                "with --ca"
            )
        if isinstance(error, ssl.SSLError):
            return f"{error.reason or error}; does it speak http?"
        error = error.__cause__ or error.__context__
    return None


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
        message = str(response.json()["error"]["message"])
        if response.status_code == 401:
            message += " (here: --key, or TANDEM_API_KEY in the environment)"
        return message
    except (ValueError, LookupError, TypeError):
        return f"the server answered {response.status_code} to {response.request.url}"
