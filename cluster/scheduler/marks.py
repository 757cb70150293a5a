"""Where a cache that can't be trimmed is copied during prefill, for later prompts to go on from.

What the next request shares with this one ends where a message does, hardly ever elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Ids

APART = 64
"""Positions between two snapshots, at least: one of them would spare too little."""


def snapshot_points(feed: tuple[int, ...], end_ids: Collection[int]) -> list[int]:
    """Lengths at which to take a snapshot, ascending: the end of the prompt, of the two
    messages before it and of the first one. A message ends behind one of `end_ids`.

    Where a message ends less than APART before the prompt does, its end is taken instead: what
    follows it only opens the answer, which the same prompt, sent again, has yet to compute, and
    which some templates write otherwise once the answer is there.
    """
    points: list[int] = []
    for point in (*_last_ends(feed, end_ids), len(feed), *_first_end(feed, end_ids)):
        alone = point == len(feed) and not points
        if alone or all(abs(point - other) >= APART for other in (0, *points)):
            points.append(point)
    return sorted(points)


def _last_ends(feed: Ids[int], end_ids: Collection[int]) -> list[int]:
    """Behind the last two end ids that have anything behind them, later first, but not nearer
    to one another than APART."""
    backwards = feed[::-1]
    ends: list[int] = []
    start = 1  # a prompt that stops right there must leave one token to compute
    while len(ends) < 2:
        places = [_find(backwards, token, start) for token in end_ids]
        place = min((p for p in places if p is not None), default=None)
        if place is None:
            break
        ends.append(len(feed) - place)
        start = place + APART
    return ends


def _first_end(feed: Ids[int], end_ids: Collection[int]) -> list[int]:
    places = [_find(feed, token, 0) for token in end_ids]
    return [min((place + 1 for place in places if place is not None), default=0)]


def _find(ids: Ids[int], token: int, start: int) -> int | None:
    """Place of the first `token` from `start` on."""
    try:
        return ids.index(token, start)
    except ValueError:
        return None
