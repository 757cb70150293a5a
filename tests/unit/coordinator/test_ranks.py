from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.coordinator.ranks import agreed, check_taken
from cluster.core.cluster import EngineFacts
from cluster.core.errors import DigestMismatch, EpochEnded, StepRefused
from cluster.core.ids import Epoch, Seq
from cluster.core.plan import StepResult

RESULT = StepResult(Epoch(1), Seq(3), digest=7, decoded=(40,))
OTHER = replace(RESULT, decoded=())


def test_the_tokens_are_rank_0s() -> None:
    assert agreed([RESULT]) is RESULT
    assert agreed([RESULT, OTHER, OTHER]) is RESULT


def test_ranks_that_disagree() -> None:
    with pytest.raises(StepRefused, match="rank 2 answers step 4, rank 0 3"):
        agreed([RESULT, OTHER, replace(OTHER, seq=Seq(4))])
    with pytest.raises(DigestMismatch, match="digest 00000008 on rank 1, 00000007 on rank 0"):
        agreed([RESULT, replace(OTHER, digest=8)])


def test_ranks_that_have_taken_different_steps_can_not_go_on() -> None:
    facts = [EngineFacts(True, 0, 0, 4, taken=taken) for taken in (5, 5, 6)]
    check_taken([*facts[:2], None])
    with pytest.raises(EpochEnded, match="between two ranks"):
        check_taken(facts)
