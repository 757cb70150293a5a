"""Core values <-> messages of the engine's stream."""

from __future__ import annotations

from cluster.core.cluster import EngineFacts, Hello, ShardPlan, Versions
from cluster.core.errors import ProtocolError
from cluster.core.ids import Entry, Epoch, Rank, Seq, Slot
from cluster.core.plan import (
    Admit,
    Chunk,
    Fork,
    Likelihood,
    Park,
    Restore,
    Save,
    Step,
    StepResult,
    StepTimes,
)
from cluster.core.sampling import Sampling
from cluster.core.shelf import ShelfNews, ShelfOrder, Shelved, Verb
from cluster.wire.v1 import engine_pb2 as pb


def versions_to(value: Versions) -> pb.Versions:
    return pb.Versions(
        protocol=value.protocol, tandem=value.tandem, mlx=value.mlx, mlx_lm=value.mlx_lm
    )


def versions_from(message: pb.Versions) -> Versions:
    return Versions(message.protocol, message.tandem, message.mlx, message.mlx_lm)


def plan_to(value: ShardPlan) -> pb.ShardPlan:
    return pb.ShardPlan(
        world=value.world,
        rank=value.rank,
        kind=value.kind,
        backend=value.backend,
        layers=value.layers,
    )


def plan_from(message: pb.ShardPlan) -> ShardPlan:
    rank, layers = Rank(message.rank), tuple(message.layers)
    return ShardPlan(message.world, rank, message.kind, message.backend, layers)


def hello_to(value: Hello) -> pb.Hello:
    message = pb.Hello(
        epoch=value.epoch,
        incarnation=value.incarnation,
        versions=versions_to(value.versions),
        model_digest=value.model_digest,
        plan=plan_to(value.plan),
        received=value.received,
    )
    facts = value.facts
    if facts is not None:
        message.facts.CopyFrom(
            pb.EngineFacts(
                trimmable=facts.trimmable,
                weight_bytes=facts.weight_bytes,
                memory_bytes=facts.memory_bytes,
                last_seq=facts.last_seq,
                position_bytes=facts.position_bytes,
                slot_bytes=facts.slot_bytes,
                shelved=facts.shelved,
                taken=facts.taken,
            )
        )
    return message


def hello_from(message: pb.Hello) -> Hello:
    facts = message.facts
    return Hello(
        epoch=Epoch(message.epoch),
        incarnation=message.incarnation,
        versions=versions_from(message.versions),
        model_digest=message.model_digest,
        plan=plan_from(message.plan),
        facts=EngineFacts(
            facts.trimmable,
            facts.weight_bytes,
            facts.memory_bytes,
            facts.last_seq,
            facts.position_bytes,
            facts.slot_bytes,
            facts.shelved,
            facts.taken,
        )
        if message.HasField("facts")
        else None,
        received=message.received if message.HasField("received") else None,
    )


def step_to(step: Step) -> pb.Step:
    return pb.Step(
        epoch=step.epoch,
        seq=step.seq,
        release=step.release,
        park=[pb.Park(slot=p.slot, keep=p.keep) for p in step.park],
        save=[pb.Save(slot=s.slot, entry=s.entry, scope=s.scope, ids=s.ids) for s in step.save],
        fork=[pb.Fork(source=f.source, slot=f.slot, keep=f.keep) for f in step.fork],
        restore=[pb.Restore(slot=r.slot, entry=r.entry) for r in step.restore],
        admit=[_admit_to(a) for a in step.admit],
        decode=step.decode,
        iterations=step.iterations,
        chunks=[
            pb.Chunk(slot=c.slot, start=c.start, tokens=c.tokens, sample=c.sample)
            for c in step.chunks
        ],
        timed=step.timed,
    )


def step_from(message: pb.Step) -> Step:
    return Step(
        epoch=Epoch(message.epoch),
        seq=Seq(message.seq),
        release=tuple(map(Slot, message.release)),
        park=tuple(Park(Slot(p.slot), p.keep) for p in message.park),
        save=tuple(Save(Slot(s.slot), Entry(s.entry), s.scope, tuple(s.ids)) for s in message.save),
        fork=tuple(Fork(Slot(f.source), Slot(f.slot), f.keep) for f in message.fork),
        restore=tuple(Restore(Slot(r.slot), Entry(r.entry)) for r in message.restore),
        admit=tuple(map(_admit_from, message.admit)),
        decode=tuple(map(Slot, message.decode)),
        iterations=message.iterations,
        chunks=tuple(
            Chunk(Slot(c.slot), c.start, tuple(c.tokens), c.sample) for c in message.chunks
        ),
        timed=message.timed,
    )


def _admit_to(admit: Admit) -> pb.Admit:
    s = admit.sampling
    return pb.Admit(
        slot=admit.slot,
        keep=admit.keep,
        sampling=pb.Sampling(
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            min_p=s.min_p,
            repetition_penalty=s.repetition_penalty,
            presence_penalty=s.presence_penalty,
            frequency_penalty=s.frequency_penalty,
            logit_bias=dict(s.logit_bias),
            seed=s.seed,
        ),
        history=admit.history,
        generated=admit.generated,
        end_ids=admit.end_ids,
        end_from=admit.end_from,
        logprobs=admit.logprobs,
        grammar=admit.grammar,
        draft=admit.draft,
    )


def _admit_from(message: pb.Admit) -> Admit:
    s = message.sampling
    return Admit(
        slot=Slot(message.slot),
        keep=message.keep,
        sampling=Sampling(
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            min_p=s.min_p,
            repetition_penalty=s.repetition_penalty,
            presence_penalty=s.presence_penalty,
            frequency_penalty=s.frequency_penalty,
            logit_bias=dict(s.logit_bias),
            seed=s.seed,
        ),
        history=tuple(message.history),
        generated=tuple(message.generated),
        end_ids=tuple(message.end_ids),
        end_from=message.end_from,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        grammar=message.grammar,
        draft=message.draft,
    )


def result_to(result: StepResult) -> pb.StepResult:
    return pb.StepResult(
        epoch=result.epoch,
        seq=result.seq,
        digest=result.digest,
        decoded=result.decoded,
        prefilled=result.prefilled,
        decode_seconds=result.decode_seconds,
        chunk_seconds=result.chunk_seconds,
        memory_bytes=result.memory_bytes,
        peak_bytes=result.peak_bytes,
        counts=result.counts,
        likelihoods=[
            pb.Likelihood(
                slot=value.slot,
                logprob=value.logprob,
                top_ids=[token for token, _ in value.top],
                top_logprobs=[logprob for _, logprob in value.top],
            )
            for value in result.likelihoods
        ],
        times=_times_to(result.times) if result.times is not None else None,
        read_bytes_per_second=result.read_bytes_per_second,
    )


def result_from(message: pb.StepResult, arrived: float = 0.0) -> StepResult:
    """`arrived` is the time now, on the clock of whom the result came to."""
    return StepResult(
        epoch=Epoch(message.epoch),
        seq=Seq(message.seq),
        digest=message.digest,
        decoded=tuple(message.decoded),
        prefilled=tuple(message.prefilled),
        decode_seconds=message.decode_seconds,
        chunk_seconds=tuple(message.chunk_seconds),
        memory_bytes=message.memory_bytes,
        peak_bytes=message.peak_bytes,
        counts=tuple(message.counts),
        likelihoods=tuple(
            Likelihood(
                Slot(value.slot),
                value.logprob,
                tuple(zip(value.top_ids, value.top_logprobs, strict=True)),
            )
            for value in message.likelihoods
        ),
        times=_times_from(message.times, arrived) if message.HasField("times") else None,
        read_bytes_per_second=(
            message.read_bytes_per_second if message.HasField("read_bytes_per_second") else None
        ),
    )


def _times_to(times: StepTimes) -> pb.StepTimes:
    decode = times.decode
    return pb.StepTimes(
        received=times.received,
        answered=times.answered,
        decode=pb.Interval(begun=decode[0], done=decode[1]) if decode is not None else None,
        chunks=[pb.Interval(begun=begun, done=done) for begun, done in times.chunks],
    )


def _times_from(message: pb.StepTimes, arrived: float) -> StepTimes:
    decode = message.decode
    return StepTimes(
        received=message.received,
        answered=message.answered,
        decode=(decode.begun, decode.done) if message.HasField("decode") else None,
        chunks=tuple((each.begun, each.done) for each in message.chunks),
        arrived=arrived,
    )


def shelved_to(value: Shelved) -> pb.Shelved:
    return pb.Shelved(
        entry=value.entry, scope=value.scope, ids=value.ids, size=value.size, used=value.used
    )


def shelved_from(message: pb.Shelved) -> Shelved:
    return Shelved(
        Entry(message.entry), message.scope, tuple(message.ids), message.size, message.used
    )


def order_to(value: ShelfOrder) -> pb.ShelfOrder:
    return pb.ShelfOrder(verb=value.verb, entry=value.entry)


def order_from(message: pb.ShelfOrder) -> ShelfOrder:
    """Raises ProtocolError for a verb of another version."""
    return ShelfOrder(_verb(message.verb), Entry(message.entry))


def news_to(value: ShelfNews) -> pb.ShelfNews:
    return pb.ShelfNews(
        verb=value.verb,
        entry=value.entry,
        ok=value.ok,
        size=value.size,
        full=value.full,
        reason=value.reason,
    )


def news_from(message: pb.ShelfNews) -> ShelfNews:
    """Raises ProtocolError for a verb of another version."""
    return ShelfNews(
        _verb(message.verb),
        Entry(message.entry),
        message.ok,
        message.size,
        message.full,
        message.reason,
    )


def _verb(name: str) -> Verb:
    try:
        return Verb(name)
    except ValueError:
        raise ProtocolError(f"no order for the shelf is called {name!r}") from None
