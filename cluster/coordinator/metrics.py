"""What `GET /metrics` answers: the tally, and the state of everything at the time of asking.

docs/metrics.md says what each name means to a person; a test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cluster.coordinator.histogram import Histogram
from cluster.coordinator.tally import Tally
from cluster.core.channel import ChannelTable
from cluster.core.request import Phase
from cluster.core.versions import versions

Label = TypeVar("Label", bound=str)

if TYPE_CHECKING:
    from cluster.coordinator.coordinator import Coordinator


class Exposition(Collector):
    """Prometheus's view of one coordinator, in a registry of its own. Read on its event loop."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Everything, in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        coordinator = self._coordinator
        yield from _counters(coordinator.tally, coordinator.live.channels)
        yield from _histograms(coordinator.tally)
        yield from _load(coordinator)
        yield from _ranks(coordinator)
        yield from _cluster(coordinator)


def _counters(tally: Tally, channels: ChannelTable) -> Iterator[Metric]:
    yield _counter("requests", "Requests that are over.", tally.finished, label="finish")
    yield _counter(
        "requests_refused", "Requests that were not taken.", tally.refusals, label="reason"
    )
    yield _counter(
        "epochs_ended", "Epochs that ended with an error.", tally.epochs_ended, label="reason"
    )
    plain = {
        "prompt_tokens": ("Prompt tokens of requests that got a token.", tally.prompt_tokens),
        "cached_prompt_tokens": (
            "Those of them that a cached prefix held.",
            tally.cached_tokens,
        ),
        "generated_tokens": ("Tokens delivered, end ids included.", tally.generated_tokens),
        "replayed_requests": (
            "Requests that went on in another epoch than they were in.",
            tally.replayed,
        ),
        "drained_tokens": (
            "Tokens computed past the end of their request, never delivered.",
            channels.drained_tokens,
        ),
        "orphan_tokens": ("Tokens that had no channel; not 0 is a bug.", channels.orphan_tokens),
    }
    for name, (help_text, value) in plain.items():
        yield CounterMetricFamily(f"tandem_{name}", help_text, value)


def _histograms(tally: Tally) -> Iterator[Metric]:
    yield _histogram("queue_seconds", "From submission to a slot.", tally.queue)
    yield _histogram(
        "time_to_first_token_seconds", "From submission to the first token.", tally.first_token
    )
    yield _histogram("inter_token_seconds", "From one token to the next.", tally.inter_token)
    yield _histogram("recovery_seconds", "From one epoch's end to the next.", tally.recovery)
    steps = HistogramMetricFamily(
        "tandem_step_seconds",
        "What the prefill or the decode of one step took on a rank.",
        labels=("rank", "kind"),
    )
    for (rank, kind), histogram in sorted(tally.steps.items()):
        steps.add_metric((str(rank), kind), _buckets(histogram), histogram.total)
    yield steps


def _load(coordinator: Coordinator) -> Iterator[Metric]:
    """Who is served, and how full it is; zeros between epochs."""
    limits, scheduler = coordinator.limits, coordinator.scheduler
    entries = coordinator.live.journal.values()
    phases = Counter(entry.sequence.progress.phase for entry in entries)
    yield _gauges(
        "live_requests",
        "Requests that are not over on every rank.",
        "phase",
        ((phase, phases[phase]) for phase in Phase),
    )
    yield _gauge(
        "queue_depth", "Requests that wait for a slot.", scheduler.waiting if scheduler else 0
    )
    yield _gauge("queue_limit", "Most that may wait.", limits.queue)
    yield _gauge("slots_used", "Slots of live sequences.", scheduler.live_slots if scheduler else 0)
    yield _gauge("slots_limit", "Most sequences that have a slot.", limits.sequences)
    yield _gauge(
        "parked_prefixes", "Prefixes kept in memory.", scheduler.parked_slots if scheduler else 0
    )
    positions = {
        "live": scheduler.live_positions if scheduler else 0,
        "parked": scheduler.parked_positions if scheduler else 0,
    }
    yield _gauges("kv_positions", "KV positions set aside.", "state", positions.items())
    yield _gauge("kv_positions_limit", "KV positions of one rank.", limits.kv_tokens)


def _ranks(coordinator: Coordinator) -> Iterator[Metric]:
    """Of the epoch that runs; no samples between epochs."""
    group = coordinator.group
    ranks, engines = (group.ranks, group.engines) if group else (None, ())
    held = ranks.memory_bytes if ranks else ()
    peak = ranks.peak_bytes if ranks else ()
    rss = [engine.rss_bytes for engine in engines]
    yield _by_rank("memory_bytes", "Held by MLX at the last step.", held)
    yield _by_rank("peak_memory_bytes", "Most that MLX has used at once.", peak)
    yield _by_rank("rss_bytes", "Resident memory of the engine process.", rss)
    speeds = coordinator.straggler.read_bytes_per_second if group else {}
    yield _gauges(
        "rank_read_bytes_per_second",
        "How fast it reads its own weights, alone.",
        "rank",
        ((str(rank), speed) for rank, speed in speeds.items()),
    )


def _cluster(coordinator: Coordinator) -> Iterator[Metric]:
    group = coordinator.group
    yield _gauge("ready", "1 while steps advance or none are wanted.", coordinator.health().ok)
    yield _gauge("epoch", "Number of the epoch that runs.", group.epoch if group else 0)
    yield _gauge("world_size", "Ranks of that epoch.", len(group.engines) if group else 0)
    known = {name: str(value) for name, value in asdict(versions()).items()}
    known["model"] = coordinator.model.id
    build = GaugeMetricFamily("tandem_build_info", "Always 1.", labels=tuple(known))
    build.add_metric(list(known.values()), 1)
    yield build


def _counter(name: str, help_text: str, counts: Mapping[Label, int], *, label: str) -> Metric:
    family = CounterMetricFamily(f"tandem_{name}", help_text, labels=(label,))
    for key, count in counts.items():
        family.add_metric((str(key),), count)
    return family


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tandem_{name}", help_text, value)


def _gauges(name: str, help_text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(f"tandem_{name}", help_text, labels=(label,))
    for key, value in values:
        family.add_metric((str(key),), value)
    return family


def _by_rank(name: str, help_text: str, values: Iterable[float]) -> Metric:
    numbered = ((str(rank), value) for rank, value in enumerate(values))
    return _gauges(f"rank_{name}", help_text, "rank", numbered)


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        f"tandem_{name}", help_text, buckets=_buckets(histogram), sum_value=histogram.total
    )


def _buckets(histogram: Histogram) -> Sequence[tuple[str, float]]:
    *finite, (_, count) = histogram.cumulative
    return [(str(bound), below) for bound, below in finite] + [("+Inf", count)]
