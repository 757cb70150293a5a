"""Rings over made-up tables of links: order, addresses, what can't be reached, RDMA."""

from __future__ import annotations

import time
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import NodeUnreachable
from cluster.core.link import Link
from cluster.placement.edges import (
    KINDS,
    Ring,
    best_link,
    choose_ring,
    kind_rank,
    rdma_devices,
    ring_hosts,
)

Table = dict[tuple[int, int], list[Link]]
GB = 1e9


def link(
    one: int, other: int, kind: str = "ethernet", speed: float = GB, *, subnet: int = 0,
    rdma: bool = False, error: str = "",
) -> Link:  # fmt: skip
    devices = (f"rdma_en{other}", f"rdma_en{one}") if rdma else ("", "")
    return Link(
        f"10.{subnet}.0.{one}", f"10.{subnet}.0.{other}", kind, 0.001, speed, devices, error
    )


def mesh(count: int, kind: str = "ethernet", speed: float = GB, *, rdma: bool = False) -> Table:
    return {pair: [link(*pair, kind, speed, rdma=rdma)] for pair in permutations(range(count), 2)}


def names(count: int) -> list[str]:
    return [f"mac-{chr(97 + number)}" for number in range(count)]


def both(table: Table, one: int, other: int, **kwargs: object) -> None:
    """Put a cable between two nodes in front of what they have."""
    for pair in ((one, other), (other, one)):
        table.setdefault(pair, []).insert(0, link(*pair, "thunderbolt", subnet=1, **kwargs))  # type: ignore[arg-type]


def test_the_kind_comes_before_the_throughput() -> None:
    wifi, slow, fast = (
        link(0, 1, "wifi", 9 * GB), link(0, 1, "thunderbolt", GB), link(0, 1, "ethernet", 5 * GB),
    )  # fmt: skip
    assert best_link([wifi, fast, slow]) is slow
    assert best_link([wifi, fast]) is fast


def test_throughput_breaks_ties() -> None:
    slow, fast = link(0, 1, subnet=1), link(0, 1, speed=2 * GB, subnet=2)
    assert best_link([slow, fast]) is fast
    assert best_link([link(0, 1, error="refused"), slow]) is slow
    assert best_link([link(0, 1, error="refused")]) is None
    assert best_link([]) is None


def test_an_unknown_kind_is_the_least() -> None:
    assert [kind_rank(kind) for kind in (*KINDS, "carrier pigeon")] == [0, 1, 2, 3, 4, 4]


def test_two_nodes_use_both_directions() -> None:
    table = mesh(2)
    both(table, 0, 1)
    ring = choose_ring(names(2), table)
    assert ring.order == (0, 1)
    assert [(e.source, e.target) for e in ring.edges] == [
        ("10.1.0.0", "10.1.0.1"), ("10.1.0.1", "10.1.0.0"),
    ]  # fmt: skip
    assert ring_hosts(ring, [1, 1], "") == ("10.1.0.0", "10.1.0.1")


def test_one_node() -> None:
    ring = choose_ring(names(1), {})
    assert ring == Ring((0,), ())
    assert ring_hosts(ring, [2], "127.0.0.1") == ("127.0.0.1", "127.0.0.1")


def test_a_chain_of_cables_is_followed_and_closed_over_ethernet() -> None:
    table = mesh(4)
    for pair in ((0, 2), (2, 1), (1, 3)):
        both(table, *pair)
    ring = choose_ring(names(4), table)
    assert ring.order == (0, 2, 1, 3)
    assert [edge.kind for edge in ring.edges] == ["thunderbolt"] * 3 + ["ethernet"]


def test_a_ring_of_cables_in_another_order() -> None:
    table = mesh(4)
    for pair in ((0, 2), (2, 1), (1, 3), (3, 0)):
        both(table, *pair)
    assert {edge.kind for edge in choose_ring(names(4), table).edges} == {"thunderbolt"}


def test_each_rank_listens_where_the_one_before_reaches_it() -> None:
    table = mesh(3)
    for pair in ((0, 2), (2, 1)):
        both(table, *pair)
    ring = choose_ring(names(3), table)
    assert ring.order == (0, 1, 2)
    # 1 -> 2 and 2 -> 0 by cable, 0 -> 1 over Ethernet; node 2 runs two ranks.
    assert ring_hosts(ring, [1, 1, 2], "") == ("10.1.0.0", "10.0.0.1", "10.1.0.2", "10.1.0.2")


def test_noise_does_not_reorder_a_ring() -> None:
    quiet = choose_ring(names(4), mesh(4))
    noisy = mesh(4, speed=1.1 * GB)
    noisy[0, 2] = [link(0, 2, speed=1.9 * GB)]
    assert quiet.order == choose_ring(names(4), noisy).order == (0, 1, 2, 3)


def test_the_slowest_link_counts() -> None:
    table = mesh(4, speed=GB)
    table[0, 1] = table[1, 0] = [link(0, 1, speed=GB / 10)]
    order = choose_ring(names(4), table).order
    assert abs(order.index(0) - order.index(1)) == 2


def test_a_link_that_works_one_way_only() -> None:
    table = mesh(3)
    table[1, 0] = [link(1, 0, error="No route to host")]
    assert choose_ring(names(3), table).order == (0, 1, 2)
    table[2, 0] = []
    with pytest.raises(NodeUnreachable, match="mac-b can't reach mac-a.*No route to host"):
        choose_ring(names(3), table)


def test_what_can_not_be_reached_is_named() -> None:
    table = mesh(2)
    table[0, 1] = [
        link(0, 1, error="Connection refused"), link(0, 1, subnet=2, error="no answer in time"),
    ]  # fmt: skip
    with pytest.raises(NodeUnreachable) as raised:
        choose_ring(names(2), table)
    assert (
        "mac-a can't reach mac-b (10.0.0.1: Connection refused; 10.2.0.1: no answer in time). "
    ) in str(raised.value)


def test_many_unreachable_pairs_are_counted() -> None:
    with pytest.raises(NodeUnreachable, match=r"mac-a can't reach mac-b.*and 8 more pairs"):
        choose_ring(names(4), {})


def test_a_star_has_no_ring() -> None:
    table = {pair: found for pair, found in mesh(4).items() if 0 in pair}
    with pytest.raises(NodeUnreachable, match="mac-b can't reach mac-c"):
        choose_ring(names(4), table)


@pytest.mark.parametrize("count", [8, 16])
def test_many_nodes_take_little_time(count: int) -> None:
    table = mesh(count)
    chain = list(range(0, count, 2)) + list(range(1, count, 2))
    for one, other in zip(chain, [*chain[1:], chain[0]], strict=True):
        both(table, one, other)
    begun = time.perf_counter()
    ring = choose_ring(names(count), table)
    assert time.perf_counter() - begun < 1
    assert sorted(ring.order) == list(range(count))
    assert {edge.kind for edge in ring.edges} == {"thunderbolt"}


@given(st.integers(2, 5).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(
        st.sampled_from(["thunderbolt", "ethernet", "wifi", ""]),
        min_size=n * (n - 1), max_size=n * (n - 1),
    ))
))  # fmt: skip
def test_any_table(case: tuple[int, list[str]]) -> None:
    """The ring found is the best of all orders, and there is none only when no order closes."""
    count, kinds = case
    pairs = list(permutations(range(count), 2))
    table: Table = {
        pair: [link(*pair, kind)] if kind else [] for pair, kind in zip(pairs, kinds, strict=True)
    }
    worst = []
    for rest in permutations(range(1, count)):
        steps = zip((0, *rest), (*rest, 0), strict=True)
        links = [best_link(table[step]) for step in steps]
        if all(links):
            worst.append(max(kind_rank(found.kind) for found in links if found))
    if not worst:
        with pytest.raises(NodeUnreachable):
            choose_ring(names(count), table)
    else:
        ring = choose_ring(names(count), table)
        assert max(kind_rank(edge.kind) for edge in ring.edges) == min(worst)
        for edge, one, other in zip(
            ring.edges, ring.order, (*ring.order[1:], ring.order[0]), strict=True
        ):
            assert edge in table[one, other]


def test_rdma_between_all() -> None:
    table = mesh(3, "thunderbolt", rdma=True)
    ring = Ring((0, 2, 1), ())
    assert rdma_devices(ring, table) == (
        ("", "rdma_en2", "rdma_en1"),
        ("rdma_en0", "", "rdma_en1"),
        ("rdma_en0", "rdma_en2", ""),
    )


def test_both_devices_of_a_pair_are_ends_of_one_cable() -> None:
    cables = [
        Link("a", "b", "thunderbolt", 0, GB, ("rdma_en2", "rdma_en3")),
        Link("c", "d", "thunderbolt", 0, 2 * GB, ("rdma_en4", "rdma_en5")),
    ]
    back = [Link("b", "a", "thunderbolt", 0, 9 * GB, ("rdma_en3", "rdma_en2"))]
    table = {(0, 1): cables, (1, 0): back}
    assert rdma_devices(choose_ring(names(2), table), table) == (("", "rdma_en4"), ("rdma_en5", ""))


def test_where_there_is_no_rdma_between_all() -> None:
    table = mesh(3, "thunderbolt", rdma=True)
    table[1, 2] = table[2, 1] = [link(1, 2, "thunderbolt")]
    assert rdma_devices(choose_ring(names(3), table), table) is None
    over_ethernet = mesh(2, "ethernet", rdma=True)
    assert rdma_devices(choose_ring(names(2), over_ethernet), over_ethernet) is None
    assert rdma_devices(choose_ring(names(1), {}), {}) is None
    many = mesh(9, "thunderbolt", rdma=True)
    assert rdma_devices(Ring(tuple(range(9)), ()), many) is None
