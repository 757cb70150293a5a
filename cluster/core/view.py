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
    """Engines of all groups that run on it; with none it may be unplugged."""
    held_bytes: int = 0
    """What they take of its memory now: weights, caches, working space."""


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
    read_bytes_per_second: float | None = None
    """How fast it reads its own weights, alone; None until it was measured."""
    slow: bool = False
    """It takes over 1.25 times as long for that as the fastest rank."""


@dataclass(frozen=True, slots=True)
class RequestView:
    """One live request."""

    id: str
    progress: Progress
    cached_tokens: int
    age_seconds: float
    model: str = ""
    replica: int = 0
    """The group of the model that has it."""
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
class GroupView:
    """One of all groups that have engines, or are to get new ones."""

    model: str
    replica: int
    epoch: int
    """0 while none runs."""
    world: int
    health: str
    """"serving", or what is the matter."""
    decode_tokens_per_second: float
    """As in ClusterView."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A picture of one group at one moment, and of the machines. Without a name it is the first
    model's first group, with the health of that model, the requests and the counts of all."""

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
    replica: int = 0
    """The group of the model that is shown."""
    groups: tuple[GroupView, ...] = ()
    """Which groups there are, of models that are loaded."""


@dataclass(frozen=True, slots=True)
class ModelRankView:
    """One engine of a model."""

    rank: int
    node_id: str
    weight_bytes: int
    memory_bytes: int
    """Held by MLX at the last step."""


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One group of a model."""

    replica: int
    epoch: int
    """0 while none runs."""
    world: int
    kind: str
    """How its ranks split the model: "single", "tensor" or "pipeline"."""
    health: str
    """"serving", or what is the matter."""
    ranks: tuple[ModelRankView, ...]


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model that may be asked for."""

    id: str
    state: str
    """"loaded", "loading", "unloaded" or "failed"."""
    pinned: bool
    """It is not unloaded, for whatever reason."""
    default: bool
    """It answers where a request names none."""
    context: int
    weight_bytes: int
    """Of its files."""
    requests: int
    idle_seconds: float
    """Since the last request, or since it was loaded; 0 while there is one, or it is not there."""
    progress: str
    """What it waits for, or how far it has been loaded; else empty."""
    error: str
    """Why it could not be loaded; else empty."""
    replicas: tuple[ReplicaView, ...]
    created: int = 0
    """Unix time at which it began to be served."""
    demo: bool = False
    """As in ServedModel."""
    keep_alive_seconds: float | None = None
    """Without a request, after which it is unloaded; None for never."""
    expires_in_seconds: float | None = None
    """Until then, if no request comes; None for never, or while it is not there."""


@dataclass(frozen=True, slots=True)
class PlacementNode:
    """A machine of a placement."""

    node_id: str
    hostname: str
    ranks: int
    bytes_per_rank: int
    usable_bytes: int
    """What other models leave of it."""


@dataclass(frozen=True, slots=True)
class PlacementChoice:
    """One way to place a model."""

    world: int
    kind: str
    fits: bool
    reason: str
    """Why it does not fit, or was not chosen."""
    chosen: bool
    predicted_decode: float | None
    """Tokens per second of one stream; None where that can't be said."""
    predicted_prefill: float | None
    nodes: tuple[PlacementNode, ...]


@dataclass(frozen=True, slots=True)
class PlacementView:
    """Where a model would go now, once all that may make room for it has."""

    model: str
    fits: bool
    refusal: str
    choices: tuple[PlacementChoice, ...]


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
    read_bytes_per_second: tuple[float | None, ...] = ()
    """By rank: how fast it read its own weights, alone; measured every 256 steps."""
