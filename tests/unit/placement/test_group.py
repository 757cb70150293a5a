"""How one group shares a model, and how it compares with others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.core.errors import CannotShard, DoesNotFit
from cluster.placement.fit import Node, shares
from cluster.placement.group import Draft, Terms, rate, split
from cluster.placement.links import LINKS, Links, measured
from cluster.placement.speed import work
from tests.unit.placement.test_place import GIB, MACS, MODEL, QWEN, node

TERMS = Terms(context=131072, sequences=16, kv_tokens=1 << 20)
SMALL, LARGE = node("mini", 8), node("studio", 16)


def test_tensor_goes_first() -> None:
    found = split(MODEL, TERMS, MACS[:2])
    assert (found.kind, found.layers, found.makeshift) == ("tensor", (), False)
    assert split(MODEL, TERMS, MACS[:1]).kind == "single"
    staged = split(MODEL, replace(TERMS, parallel="pipeline"), MACS[:2])
    assert (staged.kind, staged.layers, staged.makeshift) == ("pipeline", (), False)
    assert split(MODEL, TERMS, MACS[:3]).kind == "pipeline", "40 heads on 3 ranks"


def test_unequal_stages_where_equal_shares_do_not_fit() -> None:
    found = split(MODEL, TERMS, [SMALL, LARGE])
    assert (found.kind, found.makeshift) == ("pipeline", True)
    assert sum(found.layers) == 64
    assert found.layers[1] > found.layers[0]
    assert found.room.kv_tokens > 8192
    assert found.room.rank_bytes <= 16 * GIB
    with pytest.raises(DoesNotFit, match="each of 2 ranks needs"):
        split(MODEL, replace(TERMS, parallel="tensor"), [SMALL, LARGE])


def test_stages_that_hold_more_where_equal_ones_hold_little() -> None:
    """Equal stages fit on 10 and 16 GiB, but leave little room beside the weights."""
    uneven = split(MODEL, replace(TERMS, parallel="pipeline"), [node("a", 10), LARGE])
    assert uneven.layers
    asked = replace(TERMS, parallel="pipeline", kv_bytes=GIB // 4)
    assert not split(MODEL, asked, [node("a", 10), LARGE]).layers, "which is all that was asked"


def test_less_than_the_usual_context_is_a_makeshift() -> None:
    tight = split(MODEL, TERMS, [node("a", 20)])
    assert tight.makeshift
    assert not tight.enough
    assert not split(MODEL, replace(TERMS, kv_tokens=1024), [node("a", 20)]).makeshift


def test_a_draft_model_is_rank_0s() -> None:
    draft = Draft({**QWEN, "num_hidden_layers": 4}, GIB)
    plain, beside = (split(MODEL, replace(TERMS, draft=d), [SMALL, LARGE]) for d in (None, draft))
    assert beside.layers[0] < plain.layers[0]


def test_refusals() -> None:
    with pytest.raises(CannotShard, match="num_attention_heads is 40"):
        split(MODEL, replace(TERMS, parallel="tensor"), MACS[:3])
    with pytest.raises(DoesNotFit, match=r"each of 2 ranks needs .* has only 4\.00 GiB"):
        split(MODEL, TERMS, [node("a", 4), node("b", 4)])


def test_ranks_of_one_machine_share_it() -> None:
    pair = replace(SMALL, ranks=2)
    assert shares([pair, pair, LARGE]) == (4 * GIB, 4 * GIB, 16 * GIB)


def worth(hosts: list[Node], links: Links) -> tuple[float, ...]:
    todo = work(QWEN, MODEL.sizes, len(hosts), "tensor", 0)
    return rate(todo, hosts, links, 8192).worth


def test_chips_and_links_make_a_group_better() -> None:
    cable, radio = Links(LINKS["thunderbolt"]), Links(LINKS["wifi"])
    assert worth(MACS[:2], cable) > worth(MACS[:2], radio)
    slower = [MACS[0], node("b", 24, "Apple M4 Pro")]
    assert worth(MACS[:2], cable) > worth(slower, cable)
    unknown = [replace(mac, chip=None) for mac in MACS[:2]]
    assert worth(slower, radio) > worth(unknown, cable), "nothing is known of it"
    assert worth(unknown, cable) > worth(unknown, radio)
    near = Links(LINKS["loopback"])
    assert worth([replace(MACS[0], ranks=2)] * 2, near) < worth(MACS[:2], near), "they share it"


def test_noise_makes_no_difference() -> None:
    one, other = (measured("ethernet", seconds, 118e6) for seconds in (210e-6, 260e-6))
    assert one == other
    assert one.latency == pytest.approx(244e-6, rel=0.01)
    assert measured("thunderbolt", 0, 0) == LINKS["thunderbolt"]
    assert measured("strange", 0, 0) == LINKS["other"]
