"""The coordinator's side of trust: its authority at work, and its own certificates kept young."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import structlog

from cluster.core.errors import BadConfiguration, NotAuthorized
from cluster.trust.authority import COORDINATOR_FILE, LOCAL_FILE, Authority
from cluster.trust.identity import IdentityFile
from cluster.wire.enrollment import EnrollmentServer, enrollment_address
from cluster.wire.security import join_address, split_address

LOOK_SECONDS = 3600.0
"""Between two looks at the age of our own certificates."""

log = structlog.get_logger()


class Trust:
    """A cluster's authority, and what its coordinator shows of itself."""

    def __init__(self, authority: Authority) -> None:
        """See `open`."""
        self.authority = authority
        self.identity = IdentityFile(authority.folder / COORDINATOR_FILE)
        """The coordinator's."""
        self.local = authority.folder / LOCAL_FILE
        """Identity file of the node agent on this machine."""

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        """The authority in a folder, made at the first time; our own certificates are renewed
        while this is entered. Raises BadConfiguration."""
        authority = await asyncio.to_thread(Authority.open, folder)
        await asyncio.to_thread(authority.renew_own)
        renewing = asyncio.create_task(_renew(authority), name="renew our certificates")
        try:
            yield cls(authority)
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    def is_revoked(self, node_id: str) -> bool:
        """True when a machine may no longer take part; at most a second old."""
        return self.authority.is_revoked(node_id)

    def revoked(self) -> frozenset[str]:
        """Ids of all machines that were revoked, for those that others ask for weights."""
        return self.authority.revoked()

    def require(self, node_id: str) -> None:
        """Raise NotAuthorized when a machine may not take part."""
        if why := self.authority.trouble(node_id):
            raise NotAuthorized(why)

    @asynccontextmanager
    async def enrolling(self, host: str, port: int) -> AsyncIterator[None]:
        """Let machines with a join token enroll, beside the registry at host:port."""
        where = split_address(enrollment_address(join_address(host, port)))
        server = await EnrollmentServer.start(*where, self.identity, self.authority)
        try:
            yield
        finally:
            await server.stop()


async def _renew(authority: Authority) -> None:
    """See to our own certificates, again and again, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            await asyncio.to_thread(authority.renew_own)
        except BadConfiguration as error:
            log.error("our certificates could not be renewed", reason=str(error))
