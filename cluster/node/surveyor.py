"""A machine looks at itself for `tandem doctor`, and listens whom it hears meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from cluster.core.errors import BadConfiguration, LaunchFailed
from cluster.core.facts import Facts
from cluster.discovery.advert import Advert
from cluster.discovery.hear import hear
from cluster.node.engine_process import Say
from cluster.node.survey import survey
from cluster.wire.security import is_loopback


class Surveyor:
    """Surveys one at a time: those who ask during one get the same."""

    def __init__(self, host: str, models: Path, say: Say) -> None:
        """`host` is the address of this machine on whose network to listen, `models` the folder
        of downloaded models."""
        self._host = host
        self._models = models
        self._say = say
        self._looking: asyncio.Task[Facts] | None = None

    async def survey(self, own: Advert, prefixes: Path | None) -> Facts:
        """What is found here; `own` is what others are to hear meanwhile, and `prefixes` the
        folder of those on disk. Raises BadConfiguration as `survey.survey` does, LaunchFailed when
        this is closed meanwhile."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(own, prefixes), name="survey")
        looking = self._looking
        await asyncio.wait([looking])  # which goes on for the others when this one is cancelled
        if looking.cancelled():
            raise LaunchFailed("the node agent is stopping")
        return looking.result()

    async def close(self) -> None:
        """End what is under way. May be called twice."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look(self, own: Advert, prefixes: Path | None) -> Facts:
        hearing = asyncio.create_task(self._hear(own), name="hear")
        try:
            # In a thread: it runs commands and waits for them.
            facts = await asyncio.to_thread(survey, self._models, prefixes)
            return replace(facts, heard=await hearing)
        finally:
            hearing.cancel()
            await asyncio.wait([hearing])

    async def _hear(self, own: Advert) -> tuple[str, ...] | None:
        """Ids of the cluster's machines that mDNS brings; None where it can't be used."""
        if not own.cluster_id or is_loopback(self._host):
            return None
        try:
            return await hear(own, [self._host])
        except BadConfiguration as error:
            self._say(f"mDNS was not tried: {error}")
            return None
