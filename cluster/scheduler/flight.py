"""A step on its way, and what its result says of each sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.core.errors import StepRefused
from cluster.core.ids import RequestId, Slot
from cluster.core.plan import Likelihood, Step, StepResult
from cluster.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was sent and not yet answered by all ranks."""

    step: Step
    sent: float
    allowed: float
    """Seconds that it may take from when it could begin (invariant 7)."""
    owners: dict[Slot, Sequence]
    """Whose slots the step computes on; a slot may have another owner by the time it is done."""
    ended: tuple[RequestId, ...]
    """Requests whose slot this step parks or releases."""
    decode: float
    """Predicted time of its iterations together when it was planned, in seconds."""
    prefill: float
    """Predicted time of its chunks together when it was planned, in seconds."""


@dataclass(slots=True)
class Answer:
    """What one step sampled for one sequence."""

    sequence: Sequence
    planned: int
    """Tokens that the plan held for it: at least as many as there are ids."""
    ids: list[int] = field(default_factory=list)
    likelihoods: list[Likelihood] = field(default_factory=list)
    """One for each id when the request asked for them, else none."""


def iterations_done(step: Step, result: StepResult) -> int:
    """How many of the step's decode iterations were done.

    Raises StepRefused when that is no whole number, or more than the step had.
    """
    rows = len(step.decode)
    given = len(result.counts or result.decoded)
    done, odd = divmod(given, rows) if rows else (0, given)
    if (
        odd
        or done > step.iterations
        or (result.counts and sum(result.counts) != len(result.decoded))
    ):
        raise _misshapen(step)
    return done


def read(flight: Flight, result: StepResult) -> list[Answer]:
    """What the step sampled, by sequence: the rows first, then the chunks that end a prompt.

    Changes nothing. Raises StepRefused when the result has not the shape of the step.
    """
    step = flight.step
    done = iterations_done(step, result)
    sampling = [chunk for chunk in step.chunks if chunk.sample]
    if (len(result.prefilled), len(result.chunk_seconds)) != (len(sampling), len(step.chunks)):
        raise _misshapen(step)
    rows = [_row(flight.owners[slot], step.iterations) for slot in step.decode]
    prompts = [Answer(flight.owners[chunk.slot], 1) for chunk in sampling]
    reported = iter(result.likelihoods)
    decoded = iter(result.decoded)
    counts = iter(result.counts or (1,) * len(result.decoded))
    for _ in range(done):
        for slot, row in zip(step.decode, rows, strict=True):
            count = next(counts)
            most = 1 + row.sequence.draft
            if not (0 if _has_ended(row) else 1) <= count <= most:
                raise StepRefused(f"result of step {step.seq} has {count} ids, not 1 to {most}")
            for _ in range(count):
                _take(row, slot, next(decoded), reported, step)
    if done < step.iterations and not all(map(_has_ended, rows)):
        raise StepRefused(f"result of step {step.seq} leaves out what a sequence still wants")
    for chunk, prompt, token in zip(sampling, prompts, result.prefilled, strict=True):
        _take(prompt, chunk.slot, token, reported, step)
    if next(reported, None) is not None:
        raise StepRefused(f"result of step {step.seq} has likelihoods that nobody asked for")
    return rows + prompts


def _row(sequence: Sequence, iterations: int) -> Answer:
    return Answer(sequence, iterations * (1 + sequence.draft))


def _take(
    answer: Answer, slot: Slot, token: int, reported: Iterator[Likelihood], step: Step
) -> None:
    answer.ids.append(token)
    if answer.sequence.request.logprobs is None:
        return
    likelihood = next(reported, None)
    if likelihood is None or likelihood.slot != slot:
        raise StepRefused(f"result of step {step.seq} lacks likelihoods that were asked for")
    answer.likelihoods.append(likelihood)


def _has_ended(answer: Answer) -> bool:
    """True when nothing more is wanted of the sequence, or will be once it has these ids."""
    sequence = answer.sequence
    return sequence.finish is not None or not sequence.request.end_ids.isdisjoint(answer.ids)


def _misshapen(step: Step) -> StepRefused:
    return StepRefused(f"result of step {step.seq} has not the shape of the step")
