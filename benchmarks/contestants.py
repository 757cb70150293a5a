"""Who is compared: each is started here, on the same cores, and ended when its block is left."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from benchmarks import pinning
from benchmarks.names import PEER, RAW
from benchmarks.streams import ContestFailed, Stream, finish
from tests.e2e.cluster_process import Server, free_port, wait_until

START_SECONDS = 120.0


class Served(Protocol):
    """A contestant that answers chat completions over HTTP."""

    @property
    def port(self) -> int: ...

    @property
    def no_drafts(self) -> Mapping[str, Any]:
        """Fields of a request with which each forward pass makes one token."""

    def settle(self) -> None:
        """Return once nothing is left of earlier requests."""


def rank_cores(ranks: int) -> list[pinning.Cores]:
    """One core for each rank."""
    cores = pinning.ALL_CORES
    return [frozenset({cores[rank % len(cores)]}) for rank in range(ranks)]


def other_cores(ranks: int) -> pinning.Cores:
    """Where clients and Tandem's coordinator run: on another core than the only rank's, or
    beside the ranks on theirs."""
    cores = pinning.ALL_CORES
    return frozenset({cores[-1]}) if ranks == 1 else frozenset(cores[:ranks])


@dataclass(frozen=True, slots=True)
class Tandem:
    """`tandem serve`."""

    server: Server
    port: int
    no_drafts: Mapping[str, Any]

    def settle(self) -> None:
        self.server.wait_idle(120)

    def takes(self, **fields: Any) -> bool:
        """Whether a request may have these fields."""
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **fields}
        answer = self.server.http.post("/v1/chat/completions", json=body)
        if answer.status_code not in (200, 400):
            raise ContestFailed(answer.text)
        return answer.status_code == 200


@contextmanager
def tandem(folder: Path, ranks: int, *options: str) -> Iterator[Tandem]:
    """As a user starts it; the engines are pinned when they serve."""
    with contextlib.ExitStack() as stack:
        with pinning.on_cores(other_cores(ranks)):
            server = stack.enter_context(
                Server("--model", str(folder), "--local-ranks", str(ranks), *options)
            )
        server.wait_ready()
        engines = sorted(server.cluster()["ranks"], key=lambda rank: rank["rank"])
        for engine, cores in zip(engines, rank_cores(ranks), strict=True):
            pinning.pin(engine["pid"], cores)
            if ranks == 1:
                # The thread that speaks gRPC is no part of the rank, as the peer's HTTP is not.
                pinning.pin_main_thread(engine["pid"], other_cores(ranks))
        _check_blas([engine["pid"] for engine in engines])
        plain = Tandem(server, server.port, {})
        # A least length takes drafts out of a request; these models never end one anyway.
        drafts = {"min_tokens": 1} if plain.takes(min_tokens=1) else {}
        yield Tandem(server, server.port, drafts)


def tandem_has(option: str) -> bool:
    """Whether `tandem serve` knows an option."""
    shown = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**pinning.environment(), "COLUMNS": "200"},
        check=True,
    )
    return option in shown.stdout


@dataclass(frozen=True, slots=True)
class Peer:
    """`mlx_lm.server`."""

    port: int
    no_drafts: Mapping[str, Any]
    processes: Sequence[subprocess.Popen[bytes]]

    def settle(self) -> None:
        with Stream(self.port, "settled", 2) as stream:
            finish([stream], 2)


@contextmanager
def peer(folder: Path, ranks: int) -> Iterator[Peer]:
    """One process per rank, as mlx.launch would start them; rank 0 has HTTP."""
    port = free_port()
    command = (
        *(sys.executable, "-W", "ignore", "-m", "mlx_lm", "server", "--model", str(folder)),
        *("--port", str(port), "--log-level", "ERROR"),
    )
    with _ranks(command, ranks, pipes=False) as processes:

        def ready() -> bool:
            _check_running(processes)
            return _healthy(port)

        wait_until(ready, START_SECONDS, f"{PEER} answers")
        served = Peer(port, {}, processes)
        served.settle()  # it answers before it has loaded the model
        if ranks == 1:
            # Its HTTP threads get what Tandem's coordinator has.
            pinning.pin_main_thread(processes[0].pid, other_cores(ranks))
        _check_blas([process.pid for process in processes])
        yield served


@dataclass(frozen=True, slots=True)
class Raw:
    """The raw loop of benchmarks/raw.py."""

    processes: Sequence[subprocess.Popen[bytes]]

    def ask(self, contents: Sequence[str], max_tokens: int) -> dict[str, float]:
        """Every rank does it; what rank 0 says."""
        line = json.dumps({"contents": list(contents), "max_tokens": max_tokens}) + "\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(line.encode())
            process.stdin.flush()
        answers = [self.answer(process) for process in self.processes]
        return answers[0]

    def answer(self, process: subprocess.Popen[bytes]) -> dict[str, float]:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], 300)[0]:
            raise ContestFailed(f"{RAW}: no answer within 300 s")
        line = process.stdout.readline()
        if not line:
            raise ContestFailed(f"{RAW} has ended with {process.wait(10)}")
        answer: dict[str, float] = json.loads(line)
        return answer


@contextmanager
def raw(folder: Path, ranks: int) -> Iterator[Raw]:
    """A process per rank, which waits for what to do."""
    command = (sys.executable, "-W", "ignore", "-m", "benchmarks.raw", str(folder))
    with _ranks(command, ranks, pipes=True) as processes:
        loop = Raw(processes)
        for process in processes:
            loop.answer(process)  # it says when it has loaded the model
        _check_blas([process.pid for process in processes])
        yield loop


@contextmanager
def _ranks(
    command: Sequence[str], ranks: int, *, pipes: bool
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One process of `command` per rank, in a ring when there are several; its standard input
    and output are pipes, or nothing. What they say on standard error goes with a failure."""
    processes: list[subprocess.Popen[bytes]] = []
    pipe = subprocess.PIPE if pipes else subprocess.DEVNULL
    with (
        tempfile.NamedTemporaryFile("w", suffix=".json") as hosts,
        tempfile.TemporaryFile() as log,
    ):
        json.dump([[f"127.0.0.1:{free_port()}"] for _ in range(ranks)], hosts)
        hosts.flush()
        try:
            for rank, cores in enumerate(rank_cores(ranks)):
                ring = {"MLX_RANK": str(rank), "MLX_HOSTFILE": hosts.name}
                processes.append(
                    pinning.start(
                        command,
                        cores,
                        variables=ring if ranks > 1 else {},
                        stdin=pipe,
                        stdout=pipe,
                        stderr=log,
                    )
                )
            yield processes
        except ContestFailed as error:
            log.seek(max(0, log.tell() - 2000))
            said = log.read().decode(errors="replace").strip()
            raise ContestFailed(f"{error}; its last words: {said[-300:]}") from error
        finally:
            pinning.stop(processes)


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _check_running(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if (code := process.poll()) is not None:
            raise ContestFailed(f"a rank has ended with {code} while it started")


def _check_blas(pids: Sequence[int]) -> None:
    """Raise ContestFailed unless all ranks have the library that engines of Tandem get."""
    wanted = pinning.environment().get("LD_PRELOAD", "")
    for pid in pids:
        if wanted and not pinning.loaded_blas(pid):
            raise ContestFailed(f"process {pid} has not loaded {wanted}")
