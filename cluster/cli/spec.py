"""The file that describes machines to `tandem plan --nodes`; docs/plan.md has its form.

Read strictly: what is not understood is refused with its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.cli.document import Place, parse
from cluster.core.errors import BadConfiguration
from cluster.node.hardware import linux_usable, metal_usable, read_hardware
from cluster.placement.chips import CHIPS, Chip, find_chip
from cluster.placement.fit import Node
from cluster.placement.links import LINKS, Link, Links
from cluster.placement.speed import FAST_FENCE, METAL_FENCE

LONGEST = 64 << 10
"""Bytes of such a file."""
MOST_NODES = 64
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Spec:
    """Machines, in the order of their ranks, and the links between them."""

    nodes: tuple[Node, ...]
    links: Links


def read_spec(path: Path) -> Spec:
    """The machines of a file. Raises BadConfiguration with the line of what is wrong."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(LONGEST + 1)
        text = raw.decode()
    except OSError as error:
        raise BadConfiguration(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{path} is no text in UTF-8") from error
    if len(raw) > LONGEST:
        raise BadConfiguration(f"{path} has more than {LONGEST} bytes: is it the right file?")
    return parse_spec(text, str(path))


def this_machine() -> Spec:
    """The machine that this runs on, as its agent would report it, with one rank."""
    hardware = read_hardware()
    metal = hardware.system.startswith("macOS")
    chip = find_chip(hardware.chip) if metal else None
    node = Node(
        id=hardware.hostname.split(".")[0] or "this machine",
        usable_bytes=hardware.usable_bytes,
        chip=chip,
        fused=metal,
        cores=hardware.cores,
        fence=METAL_FENCE if metal else 0.0,
    )
    return Spec((node,), Links())


def parse_spec(text: str, name: str) -> Spec:
    """The machines that `text` describes; `name` is what errors call it."""
    return _spec(parse(text, name))


def _spec(root: Place) -> Spec:
    fields = root.fields("nodes", "links", "fast_synch", needed=("nodes",))
    fast = fields["fast_synch"].yes() if "fast_synch" in fields else False
    nodes: dict[str, Node] = {}
    for place in fields["nodes"].items("nodes", MOST_NODES):
        node = _node(place, FAST_FENCE if fast else METAL_FENCE)
        if node.id in nodes:
            raise place.wrong(f"there is a node {node.id} already")
        nodes[node.id] = node
    links = _links(fields["links"], nodes) if "links" in fields else Links()
    return Spec(tuple(nodes.values()), links)


def _node(place: Place, fence: float) -> Node:
    fields = place.fields(
        "name", "chip", "memory", "usable", "ranks", "bandwidth", "tflops",
        needed=("name", "chip", "memory"),
    )  # fmt: skip
    memory = int(fields["memory"].number(most=1 << 20, unit="GiB") * _GIB)
    named = find_chip(fields["chip"].text())
    chip = named
    if "bandwidth" in fields or "tflops" in fields:
        chip = _own_chip(place, fields, named)
    metal = "apple" in fields["chip"].text().lower()
    usable = metal_usable(memory, 0) if metal else linux_usable(memory)
    if "usable" in fields:
        usable = int(fields["usable"].number(most=memory / _GIB, unit="GiB") * _GIB)
    elif named and not named.metal:
        usable = memory
    ranks = int(fields["ranks"].number(least=1, most=64, unit="ranks")) if "ranks" in fields else 1
    return Node(
        id=fields["name"].text(),
        usable_bytes=usable,
        ranks=ranks,
        chip=chip,
        fused=metal or named is not None,
        fence=fence if metal else 0.0,
    )


def _own_chip(place: Place, fields: Mapping[str, Place], named: Chip | None) -> Chip:
    """A chip with figures of its own; both are needed for one that is not known."""
    if named is None and not {"bandwidth", "tflops"} <= set(fields):
        raise place.wrong(
            f"{fields['chip'].text()} is not known (such as {', '.join(list(CHIPS)[-7:-5])} are), "
            "so it needs both bandwidth and tflops"
        )
    chip = named or Chip(0, 0, metal=False)
    if "bandwidth" in fields:
        gigabytes = fields["bandwidth"].number(most=1e5, unit="GB/s")
        chip = replace(chip, bandwidth=gigabytes * 1e9)
    if "tflops" in fields:
        chip = replace(chip, flops=fields["tflops"].number(most=1e5, unit="TFLOPS") * 1e12)
    return chip


def _links(place: Place, nodes: Mapping[str, Node]) -> Links:
    fields = place.fields("default", "between")
    default = _link(fields["default"]) if "default" in fields else Links().default
    pairs: dict[frozenset[str], Link] = {}
    for item in fields["between"].items("links", MOST_NODES**2) if "between" in fields else []:
        ends = item.fields("nodes", "kind", "latency_us", "gbit", needed=("nodes", "kind"))["nodes"]
        both = frozenset(end.one_of(nodes) for end in ends.items("nodes", MOST_NODES))
        if len(both) != 2:
            raise ends.wrong("a link joins two different nodes")
        if both in pairs:
            raise item.wrong(f"the link of {' and '.join(sorted(both))} is given twice")
        pairs[both] = _link(item)
    return Links(default, pairs)


def _link(place: Place) -> Link:
    """A kind by itself, or with figures of its own."""
    if place.scalar:
        return LINKS[place.one_of(LINKS)]
    fields = place.fields("nodes", "kind", "latency_us", "gbit", needed=("kind",))
    link = LINKS[fields["kind"].one_of(LINKS)]
    if "latency_us" in fields:
        link = replace(link, latency=fields["latency_us"].number(most=1e7, unit="us") / 1e6)
    if "gbit" in fields:
        gbit = fields["gbit"].number(most=1e5, unit="Gbit/s")
        link = replace(link, throughput=gbit * 1e9 / 8)
    return link
