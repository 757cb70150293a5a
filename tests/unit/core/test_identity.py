"""Restarts, ghosts and copies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.core.cluster import Blas, NodeDescription, Versions
from cluster.core.identity import Claim, claim

MEMBER = NodeDescription(
    node_id="studio-1", hostname="studio", chip="", cores=1, memory_bytes=1, usable_bytes=1,
    system="", versions=Versions(1, "", "", ""), blas=Blas("", "", True, ""), addresses=(),
    agent_address="10.0.0.1:1", incarnation=7, boot_id="boot", instance="a",
)  # fmt: skip


@pytest.mark.parametrize(
    ("instance", "boot_id", "incarnation", "expected"),
    [
        ("a", "boot", 7, Claim.SAME),
        ("b", "boot", 8, Claim.RESTARTED),
        ("b", "boot", 6, Claim.GHOST),
        ("b", "boot", 7, Claim.GHOST),
        ("b", "other", 8, Claim.COPY),
        ("b", "other", 6, Claim.COPY),
        ("b", "", 8, Claim.COPY),
    ],
)
def test_claims(instance: str, boot_id: str, incarnation: int, expected: Claim) -> None:
    other = replace(MEMBER, instance=instance, boot_id=boot_id, incarnation=incarnation)
    assert claim(MEMBER, other) is expected


def test_where_no_boot_id_can_be_known() -> None:
    member = replace(MEMBER, boot_id="")
    assert claim(member, replace(member, instance="b", incarnation=9)) is Claim.COPY
