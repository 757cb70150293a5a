"""What a person sees of the cluster: `GET /health`, `GET /cluster`, `tandem status`."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.core.cluster import NodeDescription
from cluster.core.facts import Pair
from cluster.core.request import Progress


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that is being served."""

    id: str
    """As clients name it."""
    context: int
    """Longest prompt plus answer, in tokens."""
    created: int
    """Unix time at which it began to be served."""
    demo: bool
    """True for the tiny model that ships with Tandem."""
    rank_bytes: int = 0
    """What each rank is planned to take at most: weights, full caches, working space;
    on rank 0 the draft model too."""
    draft: str = ""
    """The model that drafts for it; empty for none."""


@dataclass(frozen=True, slots=True)
class Health:
    """Healthy while steps advance or none are wanted."""

    ok: bool
    reason: str
    """"serving", or what is the matter."""
    recovering: bool = False
    """Engines are gone, and requests wait for others, which they still may get in time."""

    @property
    def advancing(self) -> bool:
        """A request that waits has reason to: what a sign of life says."""
        return self.ok or self.recovering


@dataclass(frozen=True, slots=True)
class MemberView:
    """A machine of the cluster, whether the epoch uses it or not."""

    node_id: str
    hostname: str
    presence: str
    """"alive", "suspect" or "dead": what its silence means."""
    draining: bool
    """A person wants it to be free."""
    ranks: int
    """Engines of the epoch that run on it; with none it may be unplugged."""


@dataclass(frozen=True, slots=True)
class EpochView:
    """An epoch that is over."""

    number: int
    world: int
    seconds: float
    """How long it ran."""
    reason: str
    """What ended it; empty where it was stopped."""
    recovery_seconds: float | None = None
    """From its end to the beginning of the next; None as long as none has begun."""


@dataclass(frozen=True, slots=True)
class RankView:
    """One engine."""

    rank: int
    node_id: str
    endpoint: str
    pid: int
    weight_bytes: int
    memory_bytes: int
    """Held by MLX at the last step."""
    peak_bytes: int
    """Most that MLX has used at once."""
    rss_bytes: int
    last_seq: int
    """Last step it has answered."""


@dataclass(frozen=True, slots=True)
class RequestView:
    """One live request."""

    id: str
    progress: Progress
    cached_tokens: int
    age_seconds: float
    tokens_per_second: float = 0.0
    """Since its first token; 0 before the second."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What must return to zero, and what must stay there."""

    channels: int
    sequences: int
    slots: int
    """Slots in use by live sequences; parked prefixes are counted apart."""
    parked: int
    tasks: int
    journal: int
    drained_tokens: int
    """Tokens computed past the end of their request, in total; never delivered."""
    orphan_tokens: int
    """Tokens that had no channel; always 0, or there is a bug."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A picture of the whole cluster at one moment."""

    model: ServedModel
    health: Health
    epoch: int
    world: int
    backend: str
    link: str
    """Kind of the slowest link of the data plane: "none", "loopback", "ethernet", ..."""
    nodes: tuple[NodeDescription, ...]
    ranks: tuple[RankView, ...]
    requests: tuple[RequestView, ...]
    counters: Counters
    decode_tokens_per_second: float
    """Over the last 10 seconds, all streams together."""
    prefill_tokens_per_second: float
    queue_limit: int
    steps_sent: int
    uptime_seconds: float
    members: tuple[MemberView, ...] = ()
    history: tuple[EpochView, ...] = ()
    """The latest epochs that are over, the oldest first."""
    links: tuple[Pair, ...] = ()
    """The best way of each machine to each other, as it was measured last; none on loopback."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The few seconds since the sample before; None where there was nothing to measure."""

    number: int
    """One more than that of the sample before."""
    at: float
    """Seconds since the server started."""
    epoch: int
    """0 between epochs."""
    decode_tokens_per_second: float
    prefill_tokens_per_second: float
    queued: int
    """Requests that wait for a slot, at this moment."""
    running: int
    """Requests that have one."""
    first_token_seconds: tuple[float, float] | None
    """From submission: median, and what 95 of 100 stayed below."""
    inter_token_seconds: tuple[float, float] | None
    """The same from one token to the next."""
    cached_share: float | None
    """Of prompt tokens, those that a cached prefix held: 0 to 1."""
    step_seconds: tuple[float | None, ...]
    """By rank: mean of what the iterations of one decode step took by its own clock, waits for
    other ranks included."""
