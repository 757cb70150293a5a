"""The order of rows in the decode batch: whoever stays is moved as little as possible."""

from __future__ import annotations

from collections.abc import Sequence as Ids

from cluster.scheduler.sequence import Sequence


def in_order(before: Ids[Sequence], rows: Ids[Sequence]) -> list[Sequence]:
    """`rows` in the order of the batch `before`: the place of one that leaves is taken by the
    last row, and those that are new come at the end. So a rank that keeps the batch in one
    tensor moves one row for each that leaves."""
    wanted = set(rows)
    order = list(before)
    place = 0
    while place < len(order):
        if order[place] in wanted:
            place += 1
            continue
        last = order.pop()
        if place < len(order):
            order[place] = last
    known = set(order)
    return order + [row for row in rows if row not in known]
