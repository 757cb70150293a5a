"""One epoch, driven: steps out to the ranks, results and news back, deadlines watched."""

from __future__ import annotations

import asyncio

from cluster.coordinator.coordinator import Coordinator
from cluster.coordinator.ranks import StepPort
from cluster.core.ids import Epoch

WATCH_SECONDS = 0.25
"""How often deadlines are looked at; never part of the plan."""


async def drive(
    coordinator: Coordinator,
    epoch: Epoch,
    ranks: StepPort,
    *,
    trimmable: bool,
    disk_bytes: int = 0,
) -> None:
    """Run one epoch on `ranks` until it ends; always raises what ended it (EpochEnded, or a
    ProtocolError when ranks disagree). Live requests then wait for the next epoch.
    `disk_bytes` is what the files of one rank may take; with 0, nothing is kept on disk."""
    coordinator.begin(epoch, trimmable=trimmable, shelf=ranks.shelved(), disk_bytes=disk_bytes)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_send_steps(coordinator, ranks), name="send steps")
            group.create_task(_apply_results(coordinator, ranks), name="results")
            group.create_task(_hear_news(coordinator, ranks), name="shelf news")
            group.create_task(watch(coordinator), name="watch deadlines")
    except ExceptionGroup as errors:
        error = first_leaf(errors)
        coordinator.end(error)
        raise error from errors
    except asyncio.CancelledError:
        coordinator.end(None)
        raise


async def watch(coordinator: Coordinator) -> None:
    """End what is past its deadline: a request, or the epoch when a step is, which raises."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        coordinator.look()


async def _send_steps(coordinator: Coordinator, ranks: StepPort) -> None:
    """Send what is planned: orders for the shelf, then the step. One task sends both, since a
    stream takes one message at a time."""
    while True:
        coordinator.live.planned.clear()
        orders, step = coordinator.next()
        for order in orders:
            await ranks.order(order)
        if step is None:
            await coordinator.live.planned.wait()
        else:
            await ranks.send(step)


async def _apply_results(coordinator: Coordinator, ranks: StepPort) -> None:
    while True:
        result = await ranks.next_result()
        coordinator.apply(result, ranks.results)


async def _hear_news(coordinator: Coordinator, ranks: StepPort) -> None:
    while True:
        coordinator.hear(await ranks.next_news())


def first_leaf(errors: BaseException) -> BaseException:
    """The first real error in nested groups; an error that is no group is its own."""
    error = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
