"""Admission, parking and eviction within the limits."""

from __future__ import annotations

import pytest

from cluster.core.config import Limits
from cluster.core.ids import RequestId, Slot
from cluster.core.plan import Fork, Park
from cluster.core.request import Request
from cluster.core.sampling import Sampling
from cluster.scheduler.sequence import Sequence
from cluster.scheduler.slots import Edits, SlotPool

SMALL = Limits(sequences=3, parked=3, kv_tokens=100)


def pool(limits: Limits = SMALL, *, trimmable: bool = True) -> SlotPool:
    return SlotPool(limits, trimmable=trimmable)


def sequence(prompt: list[int], max_tokens: int = 5, scope: str = "") -> Sequence:
    request = Request(RequestId("r"), tuple(prompt), max_tokens, scope=scope)
    return Sequence(request, 0.0)


def admitted(slots: SlotPool, prompt: list[int], max_tokens: int = 5) -> Sequence:
    new = sequence(prompt, max_tokens)
    assert slots.admit(new)
    return new


def park(slots: SlotPool, prompt: list[int]) -> Slot:
    """A prefix of exactly these ids, its edits sent."""
    ended = admitted(slots, prompt, 1)
    ended.planned_prefill = len(prompt)
    slots.retire(ended)
    slots.take_edits()
    assert ended.slot is not None
    return ended.slot


def test_a_first_sequence_gets_an_empty_slot() -> None:
    slots = pool()
    new = admitted(slots, [1, 2, 3])
    edits = slots.take_edits()
    assert (new.slot, new.cached, new.planned_prefill) == (0, 0, 0)
    assert [(admit.slot, admit.keep) for admit in edits.admit] == [(0, 0)]
    assert not edits.release
    assert not edits.park
    assert not edits.fork
    assert not slots.take_edits()


def test_slots_are_as_many_as_sequences_may_live() -> None:
    slots = pool()
    live = [admitted(slots, [n]) for n in range(3)]
    assert not slots.admit(sequence([9]))
    slots.retire(live[1])
    assert slots.admit(sequence([9]))
    assert len(slots.live) == 3


def test_the_prompt_is_history_only_for_a_repetition_penalty() -> None:
    slots = pool()
    request = Request(RequestId("r"), (1, 2), 5, Sampling(repetition_penalty=1.1))
    slots.admit(Sequence(request, 0.0))
    admitted(slots, [3, 4])
    assert [admit.history for admit in slots.take_edits().admit] == [(1, 2), ()]


def test_a_whole_prefix_is_continued_in_its_slot() -> None:
    slots = pool()
    source = park(slots, [1, 2, 3])
    new = admitted(slots, [1, 2, 3, 4])
    assert (new.slot, new.cached, new.planned_prefill, new.prefilled) == (source, 3, 3, 3)
    assert slots.parked == 0
    assert not slots.take_edits().fork


def test_part_of_a_prefix_is_copied_and_the_prefix_stays() -> None:
    slots = pool()
    source = park(slots, [1, 2, 3, 4])
    new = admitted(slots, [1, 2, 9])
    edits = slots.take_edits()
    assert new.slot is not None
    assert new.slot != source
    assert edits.fork == [Fork(source, new.slot, 2)]
    assert [(admit.slot, admit.keep) for admit in edits.admit] == [(new.slot, 2)]
    assert slots.parked == 1


def test_without_room_for_a_copy_the_prefix_itself_is_trimmed_and_continued() -> None:
    """It must not wait for ever beside a prefix that nobody uses."""
    slots = pool()
    source = park(slots, list(range(60)))
    new = admitted(slots, [*range(20), 99], 60)
    edits = slots.take_edits()
    assert (new.slot, new.cached) == (source, 20)
    assert [(admit.slot, admit.keep) for admit in edits.admit] == [(source, 20)]
    assert not edits.fork
    assert not edits.release
    assert slots.parked == 0


def test_what_a_trim_frees_is_free_in_the_next_step() -> None:
    """Forks come before admits in a step: both would hold the room for a moment."""
    slots = pool()
    park(slots, [2] * 15)
    park(slots, [1] * 80)
    first = admitted(slots, [1] * 17 + [9] * 4, 1)  # no room for a copy: 80 become 22
    assert (first.slot, first.cached) == (1, 17)
    assert not slots.admit(sequence([3] * 25, 5))
    assert not slots.take_edits().release
    assert slots.admit(sequence([3] * 25, 5))
    assert not slots.take_edits().release


def test_a_sequence_is_released_unsent_and_its_number_used_again() -> None:
    slots = pool(Limits(sequences=3, parked=0, kv_tokens=100))
    old = admitted(slots, [1, 2, 3])
    slots.take_edits()
    slots.retire(old)
    new = admitted(slots, [4, 5])
    edits = slots.take_edits()
    assert edits.release == [old.slot] == [new.slot]
    assert not edits.park


def test_parking_keeps_what_is_known() -> None:
    slots = pool()
    old = admitted(slots, [1, 2, 3], 8)
    old.planned_prefill, old.planned_tokens, old.tokens = 3, 6, [10, 11]
    slots.retire(old)
    assert slots.take_edits().park == [Park(Slot(0), 4)]


def test_parked_in_the_same_step_it_can_be_continued_or_copied() -> None:
    slots = pool()
    old = admitted(slots, [1, 2, 3], 1)
    old.planned_prefill = 3
    slots.take_edits()
    slots.retire(old)
    copied = admitted(slots, [1, 2, 9])
    continued = admitted(slots, [1, 2, 3, 9])
    edits = slots.take_edits()
    assert edits.park == [Park(Slot(0), 3)]
    assert edits.fork == [Fork(Slot(0), Slot(1), 2)]
    assert (copied.slot, continued.slot) == (1, 0)


def test_nothing_computed_is_nothing_to_park() -> None:
    slots = pool()
    old = admitted(slots, [1, 2, 3])
    slots.take_edits()
    slots.retire(old)
    assert slots.take_edits() == Edits(release=[Slot(0)])


def test_an_untrimmable_cache_with_overrun_is_dropped() -> None:
    slots = pool(trimmable=False)
    old = admitted(slots, [1, 2, 3], 8)
    old.planned_prefill, old.planned_tokens, old.tokens = 3, 6, [10, 11]
    slots.take_edits()
    slots.retire(old)
    assert slots.take_edits() == Edits(release=[Slot(0)])
    assert slots.parked == 0


def test_an_untrimmable_cache_that_is_known_whole_is_parked() -> None:
    slots = pool(trimmable=False)
    old = admitted(slots, [1, 2, 3], 8)
    old.planned_prefill, old.planned_tokens, old.tokens = 3, 2, [10, 11]
    slots.retire(old)
    assert slots.take_edits().park == [Park(Slot(0), 4)]
    new = admitted(slots, [1, 2, 3, 10, 11, 12])
    assert (new.slot, new.cached, slots.parked) == (1, 4, 1)


def test_without_room_for_a_copy_it_is_continued_itself() -> None:
    slots = pool(trimmable=False)
    source = park(slots, [1] * 40)
    new = admitted(slots, [1] * 41, 30)
    assert (new.slot, new.cached, slots.parked) == (source, 40, 0)
    assert not slots.take_edits().fork


def test_one_too_many_parked_evicts_the_least_recently_used() -> None:
    slots = pool()
    first, *_ = (park(slots, [n, n]) for n in range(3))
    fourth = admitted(slots, [7, 7], 1)
    fourth.planned_prefill = 2
    slots.take_edits()
    slots.retire(fourth)
    edits = slots.take_edits()
    assert edits.release == [first]
    assert [parked.slot for parked in edits.park] == [fourth.slot]
    assert slots.parked == 3


def ended(slots: SlotPool, prompt: list[int]) -> Edits:
    """The edits of an admission and end of exactly these ids."""
    slots.take_edits()
    user = admitted(slots, prompt, 1)
    user.planned_prefill = len(prompt)
    slots.retire(user)
    return slots.take_edits()


def test_a_copy_makes_its_source_young() -> None:
    slots = pool()
    first, second, _ = (park(slots, [n] * 4) for n in range(3))
    admitted(slots, [0, 0, 0, 9])
    assert ended(slots, [7, 7]).release == [second]
    assert slots.admit(sequence([0, 0, 0, 0, 1]))
    assert slots.take_edits().admit[0].slot == first


def test_a_copy_of_a_small_part_does_not() -> None:
    slots = pool(Limits(sequences=3, parked=3, kv_tokens=1000))
    first, *_ = (park(slots, [n] * 50) for n in range(3))
    user = admitted(slots, [0] * 20 + [9])
    assert user.cached == 20
    assert ended(slots, [7] * 50).release == [first]


def test_a_few_ids_in_common_are_no_match() -> None:
    """Nearly all prompts begin with the same few; no prefix may be cut down to them."""
    slots = pool()
    source = park(slots, list(range(60)))
    new = admitted(slots, [*range(15), 99], 5)
    assert (new.cached, slots.parked) == (0, 1)
    assert not slots.take_edits().fork
    crowding = admitted(slots, [*range(15), 98], 60)
    assert crowding.cached == 0
    assert slots.take_edits().release == [source]


def test_what_two_prefixes_share_protects_neither() -> None:
    slots = pool(Limits(sequences=3, parked=3, kv_tokens=1000))
    other = park(slots, [5] * 40)
    first = park(slots, [1] * 40)
    second = park(slots, [1] * 35 + [2] * 5)
    assert ended(slots, [7] * 40).release == [first]
    assert ended(slots, [8] * 40).release == [other]  # then the second's are its own
    assert second in slots._index


def test_what_a_slot_takes_beside_its_positions_counts() -> None:
    slots = pool(Limits(sequences=4, parked=4, kv_tokens=100, slot_positions=20))
    parked = park(slots, [1] * 10)
    admitted(slots, [2] * 10, 10)
    assert not slots.admit(sequence([3] * 30, 11))
    assert slots.parked == 1
    assert slots.admit(sequence([3] * 30, 10))
    assert slots.take_edits().release == [parked]


# Snapshots


def test_a_snapshot_is_parked_and_its_sequence_goes_on() -> None:
    slots = pool(trimmable=False)
    live = admitted(slots, [1] * 20, 5)
    slots.take_edits()
    live.planned_prefill = 12
    slots.snapshot(live)
    assert slots.take_edits().fork == [Fork(Slot(0), Slot(1), 12)]
    assert (slots.parked, slots.live) == (1, {Slot(0): live})
    slots.snapshot(live)
    assert not slots.pending  # it is there already
    follower = admitted(slots, [1] * 13, 5)
    assert (follower.slot, follower.cached) == (2, 12)  # a copy: it can't be trimmed back
    assert slots.take_edits().fork == [Fork(Slot(1), Slot(2), 12)]


@pytest.mark.parametrize("limits", [Limits(parked=0), Limits(kv_tokens=36)])
def test_without_room_no_snapshot_is_taken(limits: Limits) -> None:
    slots = pool(limits, trimmable=False)
    live = admitted(slots, [1] * 20, 5)
    slots.take_edits()
    live.planned_prefill = 12
    slots.snapshot(live)
    assert not slots.pending
    assert slots.parked == 0


def test_a_snapshot_takes_the_place_of_what_is_worth_least() -> None:
    slots = pool(Limits(sequences=3, parked=2), trimmable=False)
    old, _ = park(slots, [5] * 4), park(slots, [6] * 4)
    live = admitted(slots, [1] * 20, 5)
    live.planned_prefill = 12
    slots.take_edits()
    slots.snapshot(live)
    edits = slots.take_edits()
    assert edits.release == [old]
    assert edits.fork == [Fork(Slot(2), old, 12)]


def test_room_is_made_by_eviction_oldest_first_and_no_more_than_needed() -> None:
    slots = pool()
    first, second, _ = (park(slots, [n] * 30) for n in range(3))
    new = admitted(slots, [9] * 30, 10)
    edits = slots.take_edits()
    assert edits.release == [first]
    assert new.slot == first
    assert slots.parked == 2
    assert slots.admit(sequence([8] * 25, 5))
    assert slots.take_edits().release == [second]


def test_nothing_is_evicted_for_one_that_must_wait_anyway() -> None:
    slots = pool()
    live = admitted(slots, [5] * 50, 10)
    park(slots, [1] * 30)
    assert not slots.admit(sequence([2] * 40, 10))
    assert slots.parked == 1
    assert not slots.take_edits().release
    slots.retire(live)
    assert slots.admit(sequence([2] * 40, 10))


def test_the_prefix_that_is_wanted_is_not_evicted() -> None:
    slots = pool()
    wanted = park(slots, [1] * 30)
    other = park(slots, [2] * 30)
    new = admitted(slots, [1] * 30 + [9], 60)
    assert (new.slot, new.cached) == (wanted, 30)
    assert slots.take_edits().release == [other]


def test_the_source_of_a_copy_in_the_same_step_is_not_evicted() -> None:
    """Release comes before fork in a step."""
    slots = pool()
    park(slots, [1] * 40)
    admitted(slots, [1] * 20 + [9], 9)
    assert not slots.admit(sequence([2] * 25, 10))
    assert not slots.take_edits().release
    assert slots.admit(sequence([2] * 25, 10))  # in the next step it may be
    assert slots.take_edits().release == [0]


def test_a_park_that_was_not_sent_is_taken_back() -> None:
    slots = pool(Limits(sequences=3, parked=1, kv_tokens=100))
    ended = [admitted(slots, [n, n], 1) for n in range(2)]
    slots.take_edits()
    for each in ended:
        each.planned_prefill = 2
        slots.retire(each)
    assert slots.take_edits() == Edits(release=[Slot(0)], park=[Park(Slot(1), 2)])


def test_the_reservation_covers_all_that_may_come() -> None:
    slots = pool()
    live = admitted(slots, [1] * 30, 40)
    assert not slots.admit(sequence([2] * 30, 1))
    assert slots.admit(sequence([2] * 29, 1))
    slots.retire(live)
    assert slots.admit(sequence([3] * 30, 40))


def test_retiring_twice_or_unadmitted_is_refused() -> None:
    slots = pool()
    with pytest.raises(ValueError, match="has no slot"):
        slots.retire(sequence([1]))
    live = admitted(slots, [1])
    slots.retire(live)
    with pytest.raises(ValueError, match="has no slot"):
        slots.retire(live)
