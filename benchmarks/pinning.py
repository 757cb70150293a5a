"""Which process runs on which core, and which matrix library a process has loaded."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from cluster.node.blas import engine_environment, find_blas

CAN_PIN = hasattr(os, "sched_setaffinity")
Cores = frozenset[int]
Result = TypeVar("Result")


ALL_CORES = tuple(sorted(os.sched_getaffinity(0)) if CAN_PIN else range(os.cpu_count() or 1))
"""The cores that this process could use when it began, in order; two are used. Not asked for
again: inside a block of `on_cores` it would be those of the block."""


def environment() -> dict[str, str]:
    """Of every rank of every contestant: the same BLAS, one thread."""
    return {**engine_environment(find_blas(), threads=1), "PYTHONUNBUFFERED": "1"}


@contextmanager
def on_cores(cores: Cores) -> Iterator[None]:
    """This thread, and what it starts, on `cores` alone while in the block."""
    if not CAN_PIN:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(pid: int, cores: Cores) -> None:
    """Move all threads of a running process; those that they start later follow."""
    if CAN_PIN:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


def pin_main_thread(pid: int, cores: Cores) -> None:
    """Move the first thread of a running process; threads that it starts later follow."""
    if CAN_PIN:
        os.sched_setaffinity(pid, cores)


def start(
    command: Sequence[str],
    cores: Cores,
    *,
    variables: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: IO[bytes],
) -> subprocess.Popen[bytes]:
    """Start a rank on `cores`, with `variables` besides `environment()`."""
    with on_cores(cores):
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**environment(), **variables},
        )


def pause(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have them do nothing at all until they are awake."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)


def awake(processes: Sequence[subprocess.Popen[bytes]], work: Callable[[], Result]) -> Result:
    """What `work` returns; paused processes run meanwhile."""
    for process in processes:
        process.send_signal(signal.SIGCONT)
    try:
        return work()
    finally:
        pause(processes)


def stop(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 5.0) -> None:
    """SIGTERM to each, paused or not, and SIGKILL to those that have not gone."""
    for process in processes:
        process.terminate()
        process.send_signal(signal.SIGCONT)
    for process in processes:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def loaded_blas(pid: int) -> str:
    """The file names of the OpenBLAS or MKL that a process has mapped; "" for none."""
    maps = Path(f"/proc/{pid}/maps")
    if not maps.exists():
        return find_blas().name
    names = {Path(line.split()[-1]).name for line in maps.read_text().splitlines() if "/" in line}
    return ", ".join(sorted(n for n in names if "openblas" in n or "mkl_rt" in n))
