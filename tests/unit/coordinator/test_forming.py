"""A server forms what `tandem plan` says, and refuses with its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.coordinator import paths as module
from cluster.coordinator.forming import Forming
from cluster.coordinator.paths import Paths
from cluster.coordinator.runner import Fitting
from cluster.core.cluster import Blas, NodeDescription, Versions
from cluster.core.config import Limits
from cluster.core.errors import BadConfiguration, CannotShard, DoesNotFit, NodeUnreachable
from cluster.core.link import Link, LinkTable
from cluster.core.view import ServedModel
from cluster.membership.choice import choose
from cluster.membership.roster import Node
from cluster.placement.fit import Demand, usual_context
from cluster.placement.group import Terms
from cluster.placement.links import LINKS, Links
from cluster.placement.place import place
from tests.unit.placement.test_place import GIB, MODEL, node

SERVED = ServedModel(id="qwen", context=131072, created=1, demo=False)
TERMS = Terms(context=SERVED.context, sequences=1, kv_tokens=1 << 20)
METAL = Blas("Metal", "", fast=True, advice="")


def member(
    name: str, gib: float, chip: str = "Apple M4 Max", host: str = "", ranks: int = 1
) -> Any:
    described = NodeDescription(
        name, f"{name}.local", chip, 12, int(gib * GIB), int(gib * GIB), "macOS 26",
        Versions(1, "", "", ""), METAL, (), "", ranks,
    )  # fmt: skip
    host = host or f"10.0.0.{ord(name[0])}"
    return SimpleNamespace(id=name, host=host, ranks=ranks, description=described)


async def probed(members: Sequence[Any], kinds: dict[str, str], monkeypatch: Any) -> Paths:
    """Links by pairs of names ("ab"); ethernet where nothing is said, none where "none" is."""
    rates = {"thunderbolt": (0.0003, 2.5e9), "ethernet": (0.0003, 118e6), "wifi": (0.003, 40e6)}

    async def probe_pairs(nodes: Sequence[Any]) -> LinkTable:
        table = {}
        for i, one in enumerate(nodes):
            for j, other in enumerate(nodes):
                kind = kinds.get("".join(sorted((one.id, other.id))), "ethernet")
                if i != j and kind == "none":
                    table[i, j] = [Link("", other.host, "ethernet", error="timed out")]
                elif i != j:
                    table[i, j] = [Link(one.host, other.host, kind, *rates[kind])]
        return table

    monkeypatch.setattr(module, "probe_pairs", probe_pairs)
    paths = Paths()
    await paths.probe(members)
    return paths


def chosen(forming: Forming, members: Sequence[Any]) -> tuple[str, Fitting]:
    by_id = {each.id: each for each in members}

    def fit(group: Sequence[Node]) -> Fitting:
        return forming.fit([by_id[each.id] for each in group])

    nodes = [Node(each.id, 1, each.ranks, 0.0) for each in members]
    group, fitting = choose(nodes, fit, lambda fitting: fitting.merit)
    return "".join(each.id for each in group), fitting


def a_forming(paths: Paths, **changes: Any) -> Forming:
    return Forming(MODEL, replace(TERMS, **changes), SERVED, Limits(sequences=1), paths)


TWO = {"parallel": "tensor"}  # of three machines: 40 heads


async def test_of_equal_machines_those_with_the_best_cable(monkeypatch: Any) -> None:
    macs = [member(name, 24) for name in "abc"]
    paths = await probed(macs, {"ac": "thunderbolt"}, monkeypatch)
    assert chosen(a_forming(paths, **TWO), macs)[0] == "ac"
    paths = await probed(macs, {"ab": "wifi", "ac": "wifi"}, monkeypatch)
    assert chosen(a_forming(paths, **TWO), macs)[0] == "bc"
    paths = await probed(macs, {}, monkeypatch)
    assert chosen(a_forming(paths, **TWO), macs)[0] == "ab", "of equal ones the first"
    paths = await probed(macs, {"ab": "none"}, monkeypatch)
    assert chosen(a_forming(paths, **TWO), macs)[0] == "ac"


async def test_of_unequal_machines_the_fastest(monkeypatch: Any) -> None:
    macs = [member("a", 24, "Apple M4 Pro"), member("b", 24), member("c", 24)]
    paths = await probed(macs, {}, monkeypatch)
    assert chosen(a_forming(paths, **TWO), macs)[0] == "bc"
    unknown = [member(name, 24, "Apple M99") for name in "abc"]
    paths = await probed(unknown, {"bc": "thunderbolt"}, monkeypatch)
    assert chosen(a_forming(paths, **TWO), unknown)[0] == "bc", "links are known"


async def test_what_no_equal_shares_fit(monkeypatch: Any) -> None:
    macs = [member("a", 8), member("b", 16)]
    group, fitting = chosen(a_forming(await probed(macs, {}, monkeypatch)), macs)
    assert (group, fitting.kind) == ("ab", "pipeline")
    assert sum(fitting.layers) == 64
    assert fitting.layers[1] > fitting.layers[0]
    assert 8192 < fitting.model.context <= fitting.limits.kv_tokens
    assert 8 * GIB < fitting.model.rank_bytes <= 16 * GIB


async def test_stages_are_by_rank_whatever_way_the_ring_goes(monkeypatch: Any) -> None:
    """a-c and c-b are cables, so b is the last rank: the layers follow the ring."""
    macs = [member("a", 9), member("b", 16), member("c", 6)]
    paths = await probed(macs, {"bc": "thunderbolt", "ac": "wifi", "ab": "wifi"}, monkeypatch)
    order = paths.ring(macs).order
    fitting = a_forming(paths, parallel="pipeline").fit(macs)
    usable = [macs[place].description.usable_bytes for place in order]
    assert sorted(fitting.layers) == [
        count for _, count in sorted(zip(usable, fitting.layers, strict=True))
    ]


async def test_a_small_machine_does_not_undo_a_tensor_split(monkeypatch: Any) -> None:
    macs = [member("a", 4), member("b", 24), member("c", 24)]
    group, fitting = chosen(a_forming(await probed(macs, {}, monkeypatch)), macs)
    assert (group, fitting.kind) == ("bc", "tensor")


async def test_what_other_groups_hold_is_not_usable(monkeypatch: Any) -> None:
    macs = [member("a", 24)]
    paths = await probed(macs, {}, monkeypatch)
    forming = Forming(MODEL, TERMS, SERVED, Limits(), paths, lambda member: 4 * GIB)
    with pytest.raises(DoesNotFit, match=r"only 4\.00 GiB"):
        forming.fit(macs)


async def test_a_refusal_speaks_of_all_machines(monkeypatch: Any) -> None:
    macs = [member("a", 4), member("b", 5), member("c", 2)]
    forming = a_forming(await probed(macs, {}, monkeypatch))
    with pytest.raises((DoesNotFit, CannotShard)) as caught:
        chosen(forming, macs)
    said = forming.refusal(macs, caught.value)
    assert isinstance(said, DoesNotFit)
    for name, gib in (("a", 4), ("b", 5), ("c", 2)):
        assert f"{name}.local ({gib}.00 GiB usable)" in str(said)
    assert "GiB on 1 rank" in str(said)
    assert said.options[-1].endswith("GiB usable")
    other = NodeUnreachable("no way round")
    assert forming.refusal(macs, other) is other
    asked = a_forming(Paths(), kv_bytes=64 * GIB)
    assert asked.refusal(macs, caught.value) is caught.value, "it speaks of --kv-gb"
    roomy = [member("a", 24)]
    assert forming.refusal(roomy, caught.value) is caught.value


async def test_engines_that_could_not_reach_each_other(monkeypatch: Any) -> None:
    macs = [member("a", 24), member("b", 24, host="127.0.0.1")]
    with pytest.raises(BadConfiguration, match="--control"):
        a_forming(await probed(macs, {}, monkeypatch)).fit(macs)


async def test_a_way_both_ways_is_as_fast_as_the_slower(monkeypatch: Any) -> None:
    macs = [member("a", 24), member("b", 24), member("c", 24)]
    paths = await probed(macs, {"ab": "thunderbolt"}, monkeypatch)
    ring = paths.ring(macs)
    speeds = paths.speeds(macs, ring)
    assert speeds.between("a", "b").kind == "thunderbolt"
    assert speeds.worst(["a", "b"]).throughput > 2e9
    assert speeds.worst(["a", "b", "c"]).throughput < 2e8


machines = st.lists(
    st.tuples(st.floats(2, 32), st.sampled_from(["Apple M4", "Apple M4 Pro", "Apple M4 Max"])),
    min_size=1, max_size=4,
)  # fmt: skip


# 64 layers on 3 ranks: b holds stages of 21, and not of 22.
@example([(23.4, "Apple M4"), (9.9, "Apple M4 Max"), (19.1, "Apple M4 Max")], "auto")
@example([(26.8, "Apple M4 Pro"), (9.8, "Apple M4 Max"), (21.9, "Apple M4 Pro")], "pipeline")
@settings(max_examples=20, deadline=None)
@given(machines, st.sampled_from(["auto", "tensor", "pipeline"]))
def test_what_is_formed_is_what_is_planned(drawn: list[tuple[float, str]], parallel: str) -> None:
    """With the context that `tandem plan` plans for unless told otherwise."""
    names = [chr(ord("a") + index) for index in range(len(drawn))]
    nodes = [
        node(name, gib, chip, fence=180e-6, cores=12)
        for name, (gib, chip) in zip(names, drawn, strict=True)
    ]
    demand = Demand(usual_context(SERVED.context), parallel=parallel)
    members = [member(name, gib, chip) for name, (gib, chip) in zip(names, drawn, strict=True)]
    try:
        said = place(MODEL, demand, nodes, Links(LINKS["other"])).chosen
    except DoesNotFit:
        return
    group, fitting = chosen(a_forming(Paths(), parallel=parallel), members)
    assert (tuple(group), fitting.kind) == (said.nodes, said.kind)
    assert bool(fitting.layers) == bool(said.layers)
    assert fitting.model.context >= demand.context * 0.99
