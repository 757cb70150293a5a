"""What is chosen, what is refused and with which numbers, over any set of machines."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.cluster import Blas, NodeDescription, ShardPlan, Versions
from cluster.core.errors import BadConfiguration, DoesNotFit
from cluster.core.ids import Rank
from cluster.placement.chips import CHIPS
from cluster.placement.fit import Demand, Model, Node, node_of, rank_memory
from cluster.placement.links import LINKS, Links
from cluster.placement.parameters import weight_sizes
from cluster.placement.place import Objective, Placement, consider, place
from cluster.placement.room import Engine, room
from cluster.placement.speed import METAL_FENCE

GIB = 1 << 30
QWEN = {
    "model_type": "qwen2", "hidden_size": 5120, "num_attention_heads": 40, "vocab_size": 152064,
    "num_key_value_heads": 8, "num_hidden_layers": 64, "intermediate_size": 27648,
    "torch_dtype": "bfloat16", "quantization": {"bits": 4, "group_size": 64},
}  # fmt: skip
MODEL = Model(QWEN, weight_sizes(QWEN))
RDMA = Links(LINKS["rdma"])
ASKED = Demand(8192)


def node(name: str, gib: float, chip: str = "Apple M4 Max", **changes: Any) -> Node:
    made = Node(name, int(gib * GIB), chip=CHIPS.get(chip), fence=4e-6)
    return replace(made, **changes)


MACS = [node(name, 24) for name in ("a", "b", "c", "d")]


def placed(nodes: list[Node], demand: Demand = ASKED, **options: Any) -> Placement:
    return place(MODEL, demand, nodes, options.pop("links", RDMA), **options)


def test_the_largest_world_by_default_and_the_reasons_against_the_others() -> None:
    found = placed(MACS)
    assert (found.chosen.world, found.chosen.kind) == (4, "tensor")
    assert found.chosen.nodes == ("a", "b", "c", "d")
    reasons = {(c.world, c.kind): c.reason for c in found.considered}
    assert reasons == {
        (1, "single"): "fewer ranks than fit",
        (2, "tensor"): "fewer ranks than fit",
        (2, "pipeline"): "fewer ranks than fit",
        (3, "tensor"): "num_attention_heads is 40, which 3 does not divide",
        (3, "pipeline"): "fewer ranks than fit",
        (4, "tensor"): "",
        (4, "pipeline"): "tensor goes first",
    }


def test_the_fastest_if_asked() -> None:
    slow = Links(LINKS["ethernet"])
    found = placed(MACS, links=slow, objective=Objective.FASTEST)
    assert found.chosen.world == 1
    assert found.considered[-1].reason == "predicted to be slower"
    assert placed(MACS, objective=Objective.FASTEST).chosen.world == 4
    unknown = [replace(mac, chip=None) for mac in MACS]
    assert placed(unknown, objective=Objective.FASTEST).chosen.world == 4, "by size then"
    assert placed(unknown).chosen.speed is None


def test_after_a_loss_as_many_ranks_as_still_place() -> None:
    assert placed(MACS, exclude={"b"}, demand=replace(ASKED, parallel="tensor")).chosen.nodes == (
        "a",
        "c",
    )
    staged = placed(MACS, exclude={"b"}).chosen
    assert (staged.world, staged.kind, staged.nodes) == (3, "pipeline", ("a", "c", "d"))
    assert placed(MACS, exclude={"a", "b", "c"}).chosen.nodes == ("d",)
    assert placed(MACS, most_ranks=2).chosen.nodes == ("a", "b")


def test_plans_are_by_rank() -> None:
    plans = placed(MACS, most_ranks=2).chosen.plans("ring")
    assert plans == tuple(ShardPlan(2, Rank(r), "tensor", "ring") for r in (0, 1))
    assert placed(MACS, most_ranks=1).chosen.plans("ring") == (ShardPlan(1, Rank(0)),)


def test_a_small_machine_is_left_out_when_it_would_hold_the_others_back() -> None:
    small = [node("tiny", 4), *MACS[:2]]
    found = placed(small).chosen
    assert (found.world, found.nodes) == (2, ("a", "b"))
    three = next(c for c in consider(MODEL, ASKED, small, RDMA) if (c.world, c.kind)[0] == 3)
    assert not three.fits


def test_of_equal_sets_the_first_and_else_the_fastest() -> None:
    two = replace(ASKED, parallel="tensor")
    assert placed(MACS[:3], two).chosen.nodes == ("a", "b")
    mixed = [node("a", 24, "Apple M4 Pro"), *MACS[1:3]]
    assert placed(mixed, two).chosen.nodes == ("b", "c")
    cable = Links(LINKS["wifi"], {frozenset("ac"): LINKS["thunderbolt"]})
    assert placed(MACS[:3], two, links=cable).chosen.nodes == ("a", "c")


def test_several_ranks_on_a_machine_share_it() -> None:
    alone = [node("a", 24, ranks=2)]
    both = placed(alone).chosen
    assert both.nodes == ("a", "a")
    assert both.usable_bytes == 12 * GIB
    assert both.speed
    one = placed(alone, most_ranks=1).chosen.speed
    assert one
    assert both.speed.decode < one.decode, "memory is no faster for two"
    tight = [node("a", 12, ranks=2), node("b", 24, ranks=2)]
    assert placed(tight, most_ranks=2).chosen.nodes == ("a", "b"), "one fits on a"


def test_unequal_stages_where_nothing_else_fits() -> None:
    """19 GiB of weights and caches on 8 and 16 GiB: half is too much for one of them."""
    story = [node("mini", 8), node("studio", 16)]
    found = placed(story)
    chosen = found.chosen
    assert (chosen.world, chosen.kind, chosen.nodes) == (2, "pipeline", ("mini", "studio"))
    assert sum(chosen.layers) == 64
    assert 1.5 < chosen.layers[1] / chosen.layers[0] < 3
    tightest, roomiest = chosen.stages
    assert tightest.total <= 8 * GIB < roomiest.total <= 16 * GIB
    assert chosen.memory == roomiest
    assert [plan.layers for plan in chosen.plans("ring")] == [chosen.layers] * 2
    assert chosen.speed
    assert not any(c.fits for c in found.considered if c is not chosen)
    with pytest.raises(DoesNotFit):
        placed(story, replace(ASKED, parallel="tensor"))
    assert not placed([node("mini", 8), node("studio", 24)]).chosen.layers, "one alone does"


def test_the_slower_machine_counts_for_its_layers() -> None:
    """The more layers the fast machine has, the faster the pipeline."""
    slow, fast = node("slow", 8, "Apple M4 Pro"), node("fast", 16)
    few, many = placed([slow, fast]).chosen, placed([replace(slow, usable_bytes=6 * GIB), fast])
    assert many.chosen.layers[0] < few.layers[0]
    assert few.speed
    assert many.chosen.speed
    assert many.chosen.speed.decode > few.speed.decode


def test_a_refusal_has_the_numbers_and_what_would_fit() -> None:
    with pytest.raises(DoesNotFit) as caught:
        placed([node("mini", 8), node("air", 6)], Demand(32768, 4))
    text = str(caught.value)
    assert "mini (8.00 GiB usable), air (6.00 GiB usable)" in text
    for world, kind in ((1, "single"), (2, "tensor")):
        need = rank_memory(MODEL, Demand(32768, 4), world, kind, MACS).total
        assert f"{need / GIB:.2f} GiB on " in text
    assert text.endswith("; or ".join(caught.value.options))
    assert re.fullmatch(r"\d+ more nodes? with [\d.]+ GiB usable( each)?", caught.value.options[-1])


def options(nodes: list[Node], demand: Demand, model: Model = MODEL) -> tuple[str, ...]:
    with pytest.raises(DoesNotFit) as caught:
        place(model, demand, nodes, RDMA)
    return caught.value.options


def test_each_advice_is_true() -> None:
    nodes, demand = [node("a", 24)], Demand(14000, 2)
    said = options(nodes, demand)
    assert said[0].startswith("--kv-bits ")
    bits = int(said[0].removeprefix("--kv-bits "))
    assert placed(nodes, replace(demand, kv_bits=bits)).chosen.fits
    assert said[1] == "1 at once instead of 2"
    assert placed(nodes, replace(demand, sequences=1)).chosen.fits
    context = int(said[2].split()[3])
    assert placed(nodes, replace(demand, context=context)).chosen.fits
    assert options(nodes, replace(demand, context=context + 256))
    more, need = re.fullmatch(r"(\d+) more nodes? with ([\d.]+) GiB.*", said[-1]).groups()  # type: ignore[union-attr]
    extra = [node(f"x{i}", float(need) + 0.01) for i in range(int(more))]
    assert placed([*nodes, *extra], demand).chosen.fits


def test_a_quantized_version_is_named() -> None:
    config = {key: value for key, value in QWEN.items() if key != "quantization"}
    model = Model(config, weight_sizes(config))
    assert "the same model in 4 bits" in options([node("a", 24)], ASKED, model)
    assert "the same model in 8 bits" in options([node("a", 40)], ASKED, model)


def test_what_makes_no_sense() -> None:
    for demand in (Demand(0), Demand(1, 0), Demand(1, kv_bits=3), Demand(1, parallel="sideways")):
        with pytest.raises(BadConfiguration):
            placed(MACS, demand)
    with pytest.raises(DoesNotFit, match="does not fit on no node at all"):
        placed(MACS, exclude={"a", "b", "c", "d"})


def test_what_is_placed_can_be_served_as_asked() -> None:
    """`room`, which sets the limits of a running server, offers at least what was asked."""
    demand = Demand(16384, 3)
    chosen = placed(MACS, demand).chosen
    assert chosen.memory
    engine = Engine(
        config=QWEN, world=chosen.world, kind=chosen.kind, kv_bits=0, cores=1, fused=True,
        weight_bytes=(chosen.memory.weights,) * chosen.world, sequences=3,
        usable_bytes=(chosen.memory.total,) * chosen.world,
        context=16384,
    )  # fmt: skip
    assert room(engine, 1 << 20).kv_tokens >= 3 * 16384


def test_a_described_machine() -> None:
    blas = Blas("Metal", "", fast=True, advice="")
    described = NodeDescription(
        "n1", "mini", "Apple M4 Pro", 12, 64 * GIB, 48 * GIB, "macOS 26", Versions(1, "", "", ""),
        blas, (), "10.0.0.1:1",
    )  # fmt: skip
    assert node_of(described) == Node(
        "n1", 48 * GIB, 1, CHIPS["Apple M4 Pro"], fused=True, cores=12, fence=METAL_FENCE
    )
    on_cpu = replace(described, blas=replace(blas, name="OpenBLAS"), chip="Intel Xeon")
    assert node_of(on_cpu, 4) == Node("n1", 48 * GIB, 4, None, fused=False, cores=3)


machines = st.lists(
    st.builds(
        lambda gib, ranks, chip: (gib, ranks, chip),
        st.floats(1, 64),
        st.integers(1, 3),
        st.sampled_from([*list(CHIPS)[:4], "none"]),
    ),
    min_size=1,
    max_size=4,
).map(
    lambda drawn: [
        node(f"n{i}", gib, chip, ranks=ranks) for i, (gib, ranks, chip) in enumerate(drawn)
    ]
)
demands = st.builds(
    Demand, st.integers(1, 65536), st.integers(1, 8), st.sampled_from([0, 8, 4]),
    st.sampled_from(["auto", "tensor", "pipeline"]),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(machines, demands, st.sampled_from(list(Objective)))
def test_no_machine_is_given_more_than_it_has(
    nodes: list[Node], demand: Demand, objective: Objective
) -> None:
    try:
        found = placed(nodes, demand, objective=objective)
    except DoesNotFit:
        assert not any(c.fits for c in consider(MODEL, demand, nodes, RDMA))
        return
    assert found == placed(nodes, demand, objective=objective), "the same each time"
    for choice in (c for c in found.considered if c.fits):
        assert choice.memory
        assert len(choice.nodes) == choice.world
        for each in nodes:
            ranks = choice.nodes.count(each.id)
            assert ranks <= each.ranks
            takes = choice.stages or (choice.memory,) * choice.world
            held = [m.total for m, host in zip(takes, choice.nodes, strict=True) if host == each.id]
            assert max(held, default=0) * ranks <= each.usable_bytes
            assert not ranks or choice.usable_bytes * ranks <= each.usable_bytes
        order = [n.id for n in nodes]
        assert list(choice.nodes) == sorted(choice.nodes, key=order.index)
    assert found.chosen.reason == ""
    assert all(c.reason for c in found.considered if c is not found.chosen)
    if objective is Objective.LARGEST:
        even = [c.world for c in found.considered if c.fits and not c.layers]
        uneven = [c.world for c in found.considered if c.fits]
        assert found.chosen.world == max(even or uneven)


@settings(max_examples=30, deadline=None)
@given(machines, demands, st.data())
def test_more_memory_never_hurts(nodes: list[Node], demand: Demand, data: st.DataObject) -> None:
    try:
        chosen = placed(nodes, demand).chosen
    except DoesNotFit:
        return
    before = 1 if chosen.layers else chosen.world  # any other choice goes before unequal stages
    index = data.draw(st.integers(0, len(nodes) - 1))
    extra = data.draw(st.integers(0, 64)) * GIB
    larger = [*nodes]
    larger[index] = replace(nodes[index], usable_bytes=nodes[index].usable_bytes + extra)
    assert placed(larger, demand).chosen.world >= before
    assert placed([*nodes, node("new", 1)], demand).chosen.world >= before
