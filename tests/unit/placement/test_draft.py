"""Which models can draft for which, and what that takes of rank 0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.core.config import DRAFT_ROWS, DRAFT_WINDOW
from cluster.core.errors import BadConfiguration, DoesNotFit
from cluster.placement.draft import check_draft, draft_bytes
from cluster.placement.memory import position_bytes
from cluster.placement.room import room
from tests.unit.placement.test_room import CONFIG, ENGINE, GIB

SMALL: dict[str, Any] = {
    **CONFIG, "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
}  # fmt: skip
WINDOWED = {**CONFIG, "model_type": "gpt_oss", "sliding_window": 128}


def test_only_what_can_be_cut() -> None:
    check_draft(CONFIG, SMALL)
    with pytest.raises(BadConfiguration, match="the model is a gpt_oss .* leave --draft-model"):
        check_draft(WINDOWED, SMALL)
    with pytest.raises(BadConfiguration, match="the draft model is a gpt_oss .* choose another"):
        check_draft(CONFIG, WINDOWED)


def test_its_caches_are_bounded_whatever_the_context() -> None:
    caches = DRAFT_ROWS * 2 * DRAFT_WINDOW * position_bytes(SMALL, 1, "single")
    taken = draft_bytes(SMALL, 2 * GIB, fused=True)
    assert 2 * GIB + caches < taken < 2 * GIB + 2 * caches


def test_it_is_taken_off_the_room_of_rank_0() -> None:
    taken = draft_bytes(SMALL, 2 * GIB, fused=True)
    alone = room(ENGINE, 1 << 20)
    (usable,) = ENGINE.usable_bytes
    beside = replace(ENGINE, usable_bytes=(usable - taken,), draft_bytes=taken)
    found = room(beside, 1 << 20)
    assert found.kv_tokens < alone.kv_tokens - taken // alone.position_bytes // 2
    assert found.rank_bytes <= usable
    with pytest.raises(DoesNotFit, match=r"only 15\.00 GiB beside the .* of --draft-model"):
        room(replace(beside, usable_bytes=(15 * GIB,)), 1 << 20)
