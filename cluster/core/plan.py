"""The plan: ordered steps that every rank applies once, and what comes back.

Only the coordinator makes steps. A rank applies the parts of a step in the order of the
fields below: release, park, save, fork, restore, admit, then the decode iterations, then the
chunks. What it computes is a function of the steps and of the sampled ids agreed in-band, of
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.core.ids import Entry, Epoch, Seq, Slot
from cluster.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Park:
    """The slot's sequence has ended (finished or cancelled): it leaves the decode batch, and
    the first `keep` positions of its cache stay as a reusable prefix; the rest is dropped."""

    slot: Slot
    keep: int


@dataclass(frozen=True, slots=True)
class Save:
    """What a parked slot holds is copied to disk in the background, under the name `entry`;
    whether it got there is told apart from steps (shelf.py)."""

    slot: Slot
    entry: Entry
    scope: str
    ids: tuple[int, ...]
    """Token ids of the slot's positions, all of them."""


@dataclass(frozen=True, slots=True)
class Fork:
    """A new slot begins with a copy of the first `keep` positions of another: of a parked one,
    or of one whose prefill is under way or has just ended (a snapshot, with all it holds)."""

    source: Slot
    slot: Slot
    keep: int


@dataclass(frozen=True, slots=True)
class Restore:
    """A new slot begins with what every rank has staged under `entry`."""

    slot: Slot
    entry: Entry


@dataclass(frozen=True, slots=True)
class Admit:
    """A sequence takes a slot: an empty one, one just forked, or a parked one that is first
    trimmed to `keep` positions (the positions that need no prefill)."""

    slot: Slot
    keep: int
    sampling: Sampling
    history: tuple[int, ...] = ()
    """Prompt ids, as far as something looks at them: the repetition penalty, or drafts (then
    all of them)."""
    generated: tuple[int, ...] = ()
    """Ids already generated before a replay, which penalties, drafts and the grammar go on
    from; normally empty."""
    end_ids: tuple[int, ...] = ()
    """Ids that end the answer. Once every row of a step has sampled one, its remaining
    iterations are left out, on all ranks alike: see `StepResult.decoded`."""
    end_from: int = 0
    """No end id is sampled at a position before this one (min_tokens)."""
    logprobs: int | None = None
    """How many of the likeliest ids are reported beside each sampled one; None for no report."""
    grammar: str = ""
    """What the answer must conform to, as llguidance takes it; empty for anything."""
    draft: int = 0
    """At most so many ids are drafted for it in one iteration; 0 for none."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part of a prompt to prefill: `tokens` at positions start, start + 1, ... of the slot."""

    slot: Slot
    start: int
    tokens: tuple[int, ...]
    sample: bool
    """True for the prompt's last chunk: the token after it is sampled in the same step."""


@dataclass(frozen=True, slots=True)
class Step:
    """One edit of the shared state of all ranks, and the work to do on it."""

    epoch: Epoch
    seq: Seq
    release: tuple[Slot, ...] = ()
    """Slots to drop with all they hold, parked or still in the decode batch."""
    park: tuple[Park, ...] = ()
    save: tuple[Save, ...] = ()
    fork: tuple[Fork, ...] = ()
    restore: tuple[Restore, ...] = ()
    admit: tuple[Admit, ...] = ()
    decode: tuple[Slot, ...] = ()
    """Rows of the decode batch. Each iteration feeds a row its latest token and samples the
    next one, and where drafts were accepted the ones after it; its cache grows by as many
    positions. For the time of an iteration it may hold `draft` positions more."""
    iterations: int = 0
    """How many times to decode; 0 exactly when `decode` is empty."""
    chunks: tuple[Chunk, ...] = ()
    timed: bool = False
    """Each rank also tells when it did the parts; changes nothing of what it does."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """When one rank did the parts of a step, in seconds of its own clock, which begins anywhere."""

    received: float
    """The step had come."""
    answered: float
    """Its result was on its way."""
    decode: tuple[float, float] | None = None
    """When the first of the decode iterations began and the last was done; None without any."""
    chunks: tuple[tuple[float, float], ...] = ()
    """The same for each chunk. Chunks that are one launch have the same times."""
    arrived: float = 0.0
    """When the result came to the coordinator, on its clock; filled in there."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely one sampled id was, by the model's own distribution: before penalties, bias,
    temperature and truncation."""

    slot: Slot
    logprob: float
    """Natural logarithm."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with their logprobs, likeliest first; as many as were asked for."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one rank, or after the comparison all of them, say of one step."""

    epoch: Epoch
    seq: Seq
    digest: int
    """CRC-32 over the batch layout (slots and cache lengths) and all sampled ids; equal on
    all ranks or the epoch ends."""
    decoded: tuple[int, ...] = ()
    """Sampled ids of the decode iterations, iteration by iteration, and within one row by row;
    one id each, unless `counts` says otherwise. The number of iterations done is `iterations`,
    or fewer when all rows have ended: iteration i is left out when every row had sampled an end
    id by launch i - 2, counted over all launches of the epoch (that one is done on every rank
    by then), or by launch i - 1 where the launch had to wait for its ids anyway (drafts,
    grammars, `read_bytes_per_second`). Every rank knows the ids; only rank 0 fills them in."""
    counts: tuple[int, ...] = ()
    """Ids that each row got in each iteration, iterations times rows; empty when all are 1."""
    prefilled: tuple[int, ...] = ()
    """Sampled ids of the chunks with `sample`, in their order. Filled in by rank 0."""
    likelihoods: tuple[Likelihood, ...] = ()
    """Of the ids in `decoded` and then `prefilled` whose sequences asked for it, in that order.
    Filled in by rank 0."""
    decode_seconds: float = 0.0
    """Time that the decode iterations took on this rank, waits for other ranks included."""
    chunk_seconds: tuple[float, ...] = ()
    """The same for each chunk."""
    memory_bytes: int = 0
    """Memory that MLX holds on this rank (active and cached)."""
    peak_bytes: int = 0
    """Most of it that was active at once since the engine was started."""
    times: StepTimes | None = None
    """Filled in when the step is `timed`."""
    read_bytes_per_second: float | None = None
    """How fast this rank read its own weights before this step, waiting for nobody; None for most
    steps, on all ranks alike, and where it can't be measured."""
