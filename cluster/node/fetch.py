"""Gets a model, or one rank's part of it, from the agents that have it.

Several sources at once; every chunk is verified before it is written, and the folder gets its
name when all of it is there. What was fetched before a break counts (partial.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from cluster.core.cluster import Loading, ShardPlan
from cluster.core.errors import ModelUnavailable, TandemError
from cluster.core.manifest import Manifest, Wanted
from cluster.model.manifest import check_manifest, identity
from cluster.model.store import SPARE, check_room, gib
from cluster.node.engine_process import Say
from cluster.node.library import Library, holds
from cluster.node.partial import Partial
from cluster.node.transfer import Chunk, Transfer
from cluster.wire.node_client import NodeClient

MOST_SOURCES = 4
STREAMS = 2
"""Chunks asked of one source at once, so that it reads while the other travels. All in all
MOST_SOURCES * STREAMS chunks are in memory: 128 MiB."""

NOTE_SECONDS = 1.0
"""Between two notes of what is there."""

_LOCK_SECONDS = 1.0

T = TypeVar("T")

Connect = Callable[[str], NodeClient]
"""A client for the agent at "host:port", with what it has to show."""
Progress = Callable[[Loading], None]


class Source(Protocol):
    """What is used of NodeClient."""

    async def has(self, wanted: Wanted) -> int | None: ...

    async def manifest(self, wanted: Wanted, progress: Progress) -> Manifest: ...

    async def read_chunk(self, wanted: Wanted, file: str, index: int, length: int) -> bytearray: ...


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches into the library of this machine."""

    library: Library
    connect: Connect
    say: Say

    async def fetch(
        self, wanted: Wanted, plan: ShardPlan, addresses: Sequence[str], progress: Progress
    ) -> Path:
        """The folder, once it is here, of the whole model where the disk has room for that, else
        of what the rank of `plan` keeps of it.

        Raises ModelUnavailable when it fits in neither way, when the sources have gone before
        all was there, or when they do not agree on what the model is. Being cancelled leaves
        what is there for the next time.
        """
        try:
            async with self._sources(addresses[:MOST_SOURCES]) as clients:
                needed, sources = await _who_has(wanted, clients)
                if plan.world > 1 and not await asyncio.to_thread(self._fits, wanted, needed):
                    self.say(
                        f"the disk of {self.library.folder} has no room for the {gib(needed)} of "
                        f"{wanted.model}: only the part of rank {plan.rank} is fetched"
                    )
                    wanted = replace(wanted, cut=replace(plan, backend="none"))
                return await self._copy(wanted, sources, progress)
        except OSError as error:
            raise ModelUnavailable(
                f"can't keep weights in {self.library.folder}: {error.strerror}"
            ) from error

    @asynccontextmanager
    async def _sources(self, addresses: Sequence[str]) -> AsyncIterator[dict[str, Source]]:
        async with AsyncExitStack() as stack:
            yield {
                address: await stack.enter_async_context(self.connect(address))
                for address in dict.fromkeys(addresses)
            }

    def _fits(self, wanted: Wanted, needed: int) -> bool:
        there = Partial(self.library.folder / wanted.name).allocated()
        self.library.folder.mkdir(parents=True, exist_ok=True)
        return needed + SPARE <= shutil.disk_usage(self.library.folder).free + there

    async def _copy(
        self, wanted: Wanted, sources: Mapping[str, Source], progress: Progress
    ) -> Path:
        partial = Partial(self.library.folder / wanted.name)
        while True:
            with partial.locked() as mine:
                if (found := await self.library.find(wanted)) is not None:
                    return found
                if mine:
                    return await self._fill(partial, wanted, sources, progress)
            progress(Loading("waiting for weights", 0.0))
            await asyncio.sleep(_LOCK_SECONDS)

    async def _fill(
        self,
        partial: Partial,
        wanted: Wanted,
        sources: Mapping[str, Source],
        progress: Progress,
    ) -> Path:
        manifest, agreed = await self._agreed(wanted, sources, progress)
        transfer = Transfer(
            manifest,
            list(agreed),
            await _resumed(partial, manifest, progress),
            [(each, name) for each in agreed for name in _differences(manifest, agreed[each])],
        )
        await asyncio.to_thread(check_room, self.library.folder, transfer.size - transfer.bytes)
        await _run(_Run(partial, wanted, transfer, sources, progress))
        if not await asyncio.to_thread(holds, partial.files, wanted):
            await asyncio.to_thread(partial.discard)
            raise ModelUnavailable(
                f"what {', '.join(agreed)} gave as {wanted.model} is not the model with the "
                f"digest {wanted.digest[:12]}: it is thrown away"
            )
        return await asyncio.to_thread(partial.finish)

    async def _agreed(
        self, wanted: Wanted, sources: Mapping[str, Source], progress: Progress
    ) -> tuple[Manifest, dict[str, Manifest]]:
        """What to fetch, and the manifests of the sources that most others agree with.

        The model's digest covers a few blocks of each file, so one bit may be wrong at a source
        that has the right digest. Where two differ, neither is believed without a third. A cut
        is work for its source, so only one makes it.
        """

        async def ask(source: Source) -> Manifest:
            manifest = await source.manifest(wanted, progress)
            check_manifest(manifest)
            return manifest

        if wanted.cut is not None:
            address, manifest = await _first(sources, ask)
            return manifest, {address: manifest}
        answers = await _each(sources, ask)
        votes: dict[str, dict[str, Manifest]] = {}
        for address in sources:  # best first, whoever answered first
            if (answer := answers.found.get(address)) is not None:
                votes.setdefault(identity(answer).digest, {})[address] = answer
        if not votes:
            raise ModelUnavailable("; ".join(answers.troubles))
        most, *others = sorted(votes.values(), key=len, reverse=True)
        manifest = next(iter(most.values()))
        if others:
            odd = {address: theirs for other in others for address, theirs in other.items()}
            pairs = (_differences(identity(manifest), identity(each)) for each in odd.values())
            trouble = (
                f"{', '.join(most)} and {', '.join(odd)} have different bytes in "
                f"{', '.join(sorted(set().union(*pairs)))} under the digest of one model"
            )
            if len(most) == len(others[0]):
                raise ModelUnavailable(
                    f"{trouble}: one copy is damaged. Compare their SHA-256, and remove that one"
                )
            self.say(f"{trouble}: the latter are not used")
        return manifest, most


@dataclass(frozen=True, slots=True)
class _Run:
    """One transfer, and what it needs."""

    partial: Partial
    wanted: Wanted
    transfer: Transfer
    sources: Mapping[str, Source]
    progress: Progress

    async def one(self, address: str, chunk: Chunk) -> None:
        """Ask the source at `address` for a chunk; only a right one is written."""
        transfer, file = self.transfer, self.transfer.files[chunk.file]
        length = file.length(chunk.index)
        try:
            data = await self.sources[address].read_chunk(
                self.wanted, chunk.file, chunk.index, length
            )
        except TandemError as error:
            transfer.failed(address, str(error))
            return
        if await asyncio.to_thread(_sha256, data) != file.hashes[chunk.index]:
            transfer.wrong(address, chunk)
            return
        await asyncio.to_thread(self.partial.write, chunk, data)
        transfer.arrived(address, chunk)

    def tell(self) -> None:
        """Report how much is there."""
        transfer = self.transfer
        self.progress(Loading("fetching weights", transfer.bytes / max(1, transfer.size)))

    async def take_notes(self) -> None:
        """Keep on disk what is there, until cancelled."""
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            await asyncio.to_thread(self.partial.note, self.transfer.verified)


async def _resumed(partial: Partial, manifest: Manifest, progress: Progress) -> frozenset[Chunk]:
    """What an earlier fetch has left that is right."""
    over = threading.Event()

    def tell(fraction: float) -> None:
        if over.is_set():  # a thread can only be ended from within
            raise ModelUnavailable("nobody waits for these weights any more")
        progress(Loading("hashing weights", fraction))

    try:
        return await asyncio.to_thread(partial.resume, manifest, tell)
    finally:
        over.set()


async def _run(run: _Run) -> None:
    """Fetch until all is there; raises ModelUnavailable when it can't be, and OSError."""
    transfer = run.transfer
    changed = asyncio.Condition()
    run.tell()

    async def work(address: str) -> None:
        while not transfer.over:
            chunk = transfer.take(address)
            async with changed:
                if chunk is None:
                    await changed.wait()
                    continue
            await run.one(address, chunk)
            run.tell()
            async with changed:
                changed.notify_all()

    try:
        async with asyncio.TaskGroup() as group:
            noting = group.create_task(run.take_notes())
            working = [
                group.create_task(work(address))
                for address in transfer.live
                for _ in range(STREAMS)
            ]
            await asyncio.wait(working)
            noting.cancel()
    except* OSError as errors:
        raise errors.exceptions[0] from errors
    finally:
        with suppress(OSError):
            run.partial.note(transfer.verified)
    if not transfer.complete:
        raise ModelUnavailable(
            f"{run.wanted.model} could not be fetched: {transfer.lost()}. What is there is kept "
            "for the next time"
        )


@dataclass(frozen=True, slots=True)
class _Answers(Generic[T]):
    """What sources answered, by address, and what those said that did not."""

    found: dict[str, T]
    troubles: list[str]


async def _each(
    sources: Mapping[str, Source], ask: Callable[[Source], Awaitable[T]]
) -> _Answers[T]:
    """Ask all sources at once."""
    answers: _Answers[T] = _Answers({}, [])

    async def one(address: str, source: Source) -> None:
        try:
            answers.found[address] = await ask(source)
        except TandemError as error:
            answers.troubles.append(f"{address}: {error}")

    async with asyncio.TaskGroup() as group:
        for address, source in sources.items():
            group.create_task(one(address, source))
    return answers


async def _who_has(wanted: Wanted, sources: Mapping[str, Source]) -> tuple[int, dict[str, Source]]:
    """Bytes of the model, and the sources that have it. Raises ModelUnavailable for none."""
    answers = await _each(sources, lambda source: source.has(wanted))
    # In the order of `sources`, best first, whoever has answered first.
    sizes = {address: size for address in sources if (size := answers.found.get(address))}
    if not sizes:
        raise ModelUnavailable(
            f"none of {', '.join(sources)} has {wanted.model} with the digest "
            f"{wanted.digest[:12]}{''.join(f'; {each}' for each in answers.troubles)}"
        )
    return max(sizes.values()), {address: sources[address] for address in sizes}


async def _first(
    sources: Mapping[str, Source], ask: Callable[[Source], Awaitable[T]]
) -> tuple[str, T]:
    """The first source that gives an answer, and that."""
    troubles = []
    for address, source in sources.items():
        try:
            return address, await ask(source)
        except TandemError as error:
            troubles.append(f"{address}: {error}")
    raise ModelUnavailable("; ".join(troubles))


def _differences(one: Manifest, other: Manifest) -> set[str]:
    """Names of the files that are not the same in both."""
    pairs = {(file.name, file.digest) for file in one.files} ^ {
        (file.name, file.digest) for file in other.files
    }
    return {name for name, _ in pairs}


def _sha256(data: bytearray) -> bytes:
    return hashlib.sha256(data).digest()
