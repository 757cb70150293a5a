"""A worker's certificate: got for a join token, kept in a file, renewed at half of its life."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

from cluster.core.errors import BadConfiguration, Busy, NodeUnreachable, NotAuthorized
from cluster.node.engine_process import Say
from cluster.trust.identity import (
    DEFAULT_FOLDER,
    NODE_FILE,
    Draft,
    Identity,
    IdentityFile,
    read_identity,
    write_identity,
)
from cluster.trust.token import JoinToken
from cluster.wire import registry
from cluster.wire.enrollment import enroll
from cluster.wire.security import is_loopback

LOOK_SECONDS = 3600.0
"""Between two looks at the age of the certificate, or two attempts to renew it."""


FIRST_RETRY, LAST_RETRY = 0.5, 5.0
"""Seconds between attempts to enroll: doubled from the first to the last."""


async def own_identity(
    folder: Path | None, host: str, join: str | None, token: str | None, say: Say
) -> IdentityFile | None:
    """What this machine shows of itself when it listens on `host`; None on loopback, unless a
    token or a folder is given. A token that was not used here before is exchanged for a
    certificate, with the coordinator at `join`.

    A coordinator that is away is waited for. Raises BadConfiguration when there is neither
    certificate nor token, or the token is none; NotAuthorized.
    """
    if token is None and folder is None and is_loopback(host):
        return None
    path = (folder or DEFAULT_FOLDER).expanduser().absolute() / NODE_FILE
    kept = await asyncio.to_thread(read_identity, path)
    shown = JoinToken.parse(token) if token is not None else None
    wanted = what_is_wanted(kept, shown, time.time())
    if wanted:
        if shown is None or join is None:
            raise BadConfiguration(
                f"{wanted}: join with `tandem worker --join HOST:PORT --token TOKEN`; `tandem "
                "token create` on the server prints a token"
            )
        identity = await _enroll(join, shown, say)
        await asyncio.to_thread(write_identity, path, identity)
        say(f"enrolled as {identity.name.id}; the certificate is kept in {path}")
    return IdentityFile(path)


async def _enroll(join: str, token: JoinToken, say: Say) -> Identity:
    """Exchange the token, as soon as somebody answers."""
    delay, said = FIRST_RETRY, ""
    while True:
        try:
            return await enroll(join, token, socket.gethostname())
        except (NodeUnreachable, Busy) as error:
            if str(error) != said:
                say(f"{error}; trying again until it is there")
                said = str(error)
        await asyncio.sleep(delay)
        delay = min(2 * delay, LAST_RETRY)


def what_is_wanted(kept: Identity | None, token: JoinToken | None, now: float) -> str:
    """Why a machine has to enroll (anew); empty when what it has kept will do. The same token may
    be given at every start."""
    if kept is None:
        return "this machine is not one of a cluster yet"
    if now >= kept.expires:
        return "this machine's certificate has expired"
    if token is not None and token.id != kept.token:
        return "the token is a new one"
    return ""


async def keep_renewed(file: IdentityFile, join: str | None, say: Say) -> None:
    """Renew the certificate whenever half of its life is over, with the coordinator at `join` or
    the one that it is from; never returns."""
    said = ""
    while True:
        identity = file.current()
        if time.time() >= identity.renew_at:
            try:
                await renew(file, join or identity.coordinator)
                said = ""
            except (NodeUnreachable, Busy, NotAuthorized, BadConfiguration) as error:
                trouble = f"the certificate could not be renewed, and ends on {_date(identity)}"
                if str(error) != said:
                    say(f"{trouble}: {error}")
                    said = str(error)
        await asyncio.sleep(LOOK_SECONDS)


async def renew(file: IdentityFile, address: str) -> None:
    """Ask for a certificate for a new key, and keep both. Raises NodeUnreachable, NotAuthorized,
    or BadConfiguration when they can't be kept."""
    before = file.current()
    draft = Draft()
    issued = await registry.renew(address, file, draft.request)
    identity = draft.finish(issued, before.authority, before.coordinator, before.token)
    if identity.name != before.name:
        raise NotAuthorized(f"the new certificate is one for {identity.name.id}")
    await asyncio.to_thread(write_identity, file.path, identity)


def _date(identity: Identity) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(identity.expires))
