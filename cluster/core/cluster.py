"""Machines, engines and the group they form."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.core.ids import Epoch, Rank

PROTOCOL = 5
"""Version of the gRPC contract; grows when a peer of the version before would misread it."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What must be equal in every part of one cluster."""

    protocol: int
    tandem: str
    mlx: str
    mlx_lm: str

    def differences(self, other: Versions) -> list[str]:
        """Names of the fields that differ, each with both values; empty when equal."""
        names = ("protocol", "tandem", "mlx", "mlx_lm")
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [
            f"{name} {mine} here, {theirs} there" for name, mine, theirs in pairs if mine != theirs
        ]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """How the model is split, and which part is meant."""

    world: int
    rank: Rank
    kind: str = "single"
    """"single" (world 1, no group), "tensor" or "pipeline"."""
    backend: str = "none"
    """"none", "ring", "jaccl" or "nccl"."""
    layers: tuple[int, ...] = ()
    """Of each stage of a pipeline, by rank; rank 0 has the last ones. Empty where stages are
    equal, and for every other kind."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says of itself once it has loaded."""

    trimmable: bool
    """Every layer's cache can be cut at any position (no sliding window, no SSM state)."""
    weight_bytes: int
    memory_bytes: int
    last_seq: int
    """Steps applied in this epoch, those of earlier coordinators included; 0 before the first."""
    position_bytes: int = 0
    """Cache bytes of one position of one sequence."""
    slot_bytes: int = 0
    """Cache bytes of a slot that do not grow with its positions: windows, states."""
    shelved: int = 0
    """Prefixes found on disk; as many `Shelved` follow the hello."""
    taken: int = 0
    """Steps taken in this epoch, like `last_seq`; more than that while some are under way. Where
    it differs between ranks, a coordinator died between them: the group can't go on."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First message each way on an engine's stream; whatever differs is refused by name."""

    epoch: Epoch
    incarnation: int
    """Of the coordinator; grows with each start. An engine refuses one lower than it has seen, and
    drops the plan of the one before for a higher one."""
    versions: Versions
    model_digest: str
    plan: ShardPlan
    facts: EngineFacts | None = None
    """Filled in by the engine only."""
    received: int | None = None
    """Number of the last message received in this session (session.py). From a coordinator,
    None begins a session."""

    def differences(self, theirs: Hello) -> list[str]:
        """By name, everything that must be equal and is not; empty when all is well."""
        wrong = self.versions.differences(theirs.versions)
        if self.epoch != theirs.epoch:
            wrong.append(f"epoch {self.epoch} here, {theirs.epoch} there")
        if self.model_digest != theirs.model_digest:
            wrong.append(
                f"model digest {self.model_digest[:12]} here, {theirs.model_digest[:12]} there "
                "(other weights or tokenizer under the same name)"
            )
        if self.plan != theirs.plan:
            wrong.append(f"shard plan {self.plan} here, {theirs.plan} there")
        return wrong


@dataclass(frozen=True, slots=True)
class Blas:
    """The matrix library that engines of a node use."""

    name: str
    """"Metal", "CUDA", "Accelerate", "OpenBLAS", "MKL" or "reference"."""
    preload: str
    """Library that the agent preloads into its engines; empty for none."""
    fast: bool
    advice: str
    """What to install when it is slow; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a machine."""

    interface: str
    ip: str
    kind: str
    """"thunderbolt", "ethernet", "wifi", "loopback" or "other"."""
    speed_mbps: int = 0
    """Of the interface, in 10^6 bits per second; 0 when it does not say."""
    mtu: int = 0
    """Bytes; 0 when not known."""
    rdma: str = ""
    """RDMA device of the interface with an active port ("rdma_en5"); empty for none."""


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """What an agent reports of its machine."""

    node_id: str
    """Stable for one machine and agent address."""
    hostname: str
    chip: str
    cores: int
    memory_bytes: int
    """Installed."""
    usable_bytes: int
    """What engines of this node may use together."""
    system: str
    versions: Versions
    blas: Blas
    addresses: tuple[Address, ...]
    agent_address: str
    """"host:port" of the agent's gRPC service."""
    incarnation: int = 0
    """Grows with each start of an agent of this machine; `cluster.core.identity` compares."""
    boot_id: str = ""
    """Of the running system: one machine has one at a time, and a copied disk does not copy it.
    Empty when it can't be known."""
    instance: str = ""
    """Random, of this agent process."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Everything an engine needs to know at its start."""

    epoch: Epoch
    secret: str
    """Of the epoch; the engine's endpoint answers to nothing else."""
    model: str
    """Local folder, Hugging Face id, or "demo"."""
    model_digest: str
    plan: ShardPlan
    ring: tuple[str, ...] = ()
    """"host:port" of each rank's data plane, by rank; empty for world 1."""
    threads: int = 0
    """BLAS threads; 0 leaves the choice to the library."""
    kv_bits: int = 0
    """Bits of a cached value: 8 or 4, or 0 for the model's own type."""
    kv_dir: str = ""
    """Folder for prefixes on disk; empty for none."""
    draft_model: str = ""
    """As `model`, of the model that drafts; empty for none. Rank 0 loads it, the others must know
    that there is one."""
    draft_digest: str = ""
    rdma: tuple[tuple[str, ...], ...] = ()
    """For jaccl, by rank: its RDMA device towards each rank, "" towards itself; else empty."""
    sources: tuple[str, ...] = ()
    """Agents ("host:port", best first) that have the model, for an agent that has not. The
    engine gets none."""
    incarnation: int = 0
    """Of the coordinator that launches it."""


@dataclass(frozen=True, slots=True)
class Started:
    """The engine process exists."""

    pid: int


@dataclass(frozen=True, slots=True)
class Loading:
    """The engine gets ready. `what`: "download" (from the Hub), "weights" or "warm-up"; before
    there is an engine, "hashing weights" and "cutting weights" (at the source), "fetching
    weights", or "waiting for weights" (which another engine of the machine fetches)."""

    what: str
    fraction: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine takes steps at `endpoint` ("host:port")."""

    endpoint: str
    seconds: float
    """Since its start."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Once a second: the agent's lease on the coordinator's trust, and the engine's use."""

    rss_bytes: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Exited:
    """The engine is gone. `code` is negative when a signal killed it."""

    code: int
    last_words: str
    """Its own error line, else the end of its stderr."""


EngineEvent = Started | Loading | Ready | Alive | Exited
