"""Prefixes on disk: what is saved, what is read back, and what happens when that fails."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from cluster.core.config import Limits
from cluster.core.ids import Slot
from cluster.core.request import Finish
from cluster.core.shelf import Shelved, Verb
from cluster.scheduler.prefix import pack
from cluster.scheduler.shelf import LEAST, STAGE_SECONDS, entry_name
from tests.unit.scheduler.disk import Disk
from tests.unit.scheduler.harness import Harness

DISK = 10_000
TINY = Limits(parked=0)
"""Nothing stays in memory."""


def prompt(length: int, stem: int = 1) -> list[int]:
    return [(stem * 7919 + n * n) % 1000 for n in range(length)]


def shelved(ids: Iterable[int], scope: str = "", used: float = 0.0) -> Shelved:
    held = tuple(ids)
    return Shelved(entry_name(scope, pack(held)), scope, held, len(held), used)


def started(
    *entries: Shelved, limits: Limits = TINY, trimmable: bool = True, room: int = DISK
) -> Harness:
    """After a restart: memory is empty."""
    return Harness(limits=limits, trimmable=trimmable, disk=Disk(entries), disk_bytes=room)


def verbs(harness: Harness) -> list[str]:
    """The orders given."""
    names = tuple(verb.value for verb in Verb)
    words = [line.split() for line in harness.log]
    return [word[1] for word in words if word[1] in names and len(word) == 3]


def saves(harness: Harness) -> list[int]:
    """Positions of each save."""
    return [len(save.ids) for step in harness.steps for save in step.save]


def fill(harness: Harness) -> None:
    while harness.plan():
        pass


# Names


def test_a_name_is_of_the_scope_and_the_ids() -> None:
    names = {
        entry_name(scope, pack(ids))
        for scope in ("", "a", "ab")
        for ids in ([1], [1, 2], [2, 1], [256])
    }
    assert len(names) == 12
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)
    assert entry_name("a", pack([1, 2])) == entry_name("a", pack([1, 2]))


# Saving


def test_what_is_parked_is_saved_and_the_start_of_it_is_deleted() -> None:
    harness = started(limits=Limits())
    first = harness.submit("a", prompt(300), 5)
    harness.run()
    assert saves(harness) == [304]
    harness.submit("b", [*prompt(300), *first.ids, *prompt(200, 2)], 5)
    harness.settle()
    assert saves(harness) == [304, 509]
    assert [len(each.ids) for each in harness.disk.files.values()] == [509]


def test_without_a_disk_nothing_is_saved_or_looked_for() -> None:
    harness = Harness(limits=Limits(), disk=Disk([shelved(prompt(300))]), disk_bytes=0)
    tracked = harness.submit("a", prompt(300), 5)
    harness.settle()
    assert not saves(harness)
    assert not verbs(harness)
    assert tracked.sequence.cached == 0


@pytest.mark.parametrize(
    ("length", "more", "saved"),
    [
        (0, LEAST - 1, False),
        (0, LEAST, True),
        (300, LEAST - 1, False),
        (300, LEAST, True),
        (4000, 4000 // 16, False),
        (4000, 4000 // 15, True),
    ],
)
def test_only_what_gains_enough_is_saved(length: int, more: int, saved: bool) -> None:
    entries = [shelved(prompt(length))] if length else []
    harness = started(*entries, limits=Limits())
    harness.submit("a", prompt(length + more), 1)
    harness.settle()
    assert saves(harness) == ([length + more] if saved else [])


def test_one_save_at_a_time() -> None:
    harness = started(limits=Limits())
    for stem in range(3):
        harness.submit(str(stem), prompt(200, stem), 1)
    fill(harness)
    while harness.answer():
        fill(harness)
    assert len(saves(harness)) == 1
    assert harness.disk.pending
    harness.settle()
    assert len(saves(harness)) == 3


def test_saving_goes_on_beside_others() -> None:
    harness = started(limits=Limits())
    harness.submit("a", prompt(200), 1)
    harness.run(until=lambda: harness.disk.pending)
    other = harness.submit("b", prompt(20, 2), 30)
    while other.finish is None:
        assert harness.plan() or harness.answer()
    assert harness.disk.pending
    harness.settle()


def test_a_save_that_failed_is_deleted_and_not_tried_again() -> None:
    harness = started(limits=Limits())
    harness.submit("a", prompt(200), 1)
    harness.run(until=lambda: harness.disk.pending)
    harness.hear(ok=False)
    harness.settle()
    assert len(saves(harness)) == 1
    assert not harness.disk.files
    assert verbs(harness)[-1] == "delete"
    assert not harness.scheduler.disk_full


def test_over_its_size_the_least_valuable_goes() -> None:
    harness = started(limits=Limits(), room=650)
    for stem in (1, 2, 3):
        harness.submit(str(stem), prompt(300, stem), 1)
        harness.run()
    harness.settle()
    left = {each.ids[:300] for each in harness.disk.files.values()}
    assert left == {tuple(prompt(300, 2)), tuple(prompt(300, 3))}


def test_what_is_larger_than_all_may_be_pushes_nothing_out() -> None:
    harness = started(shelved(prompt(400, 9)), limits=Limits(), room=450)
    for stem in (1, 2):
        harness.submit(str(stem), prompt(460 + stem, stem), 1)
        harness.run()
    harness.settle()
    assert saves(harness) == [461]
    assert [each.ids for each in harness.disk.files.values()] == [tuple(prompt(400, 9))]


def test_more_than_there_may_be_goes_at_the_start_oldest_first() -> None:
    old, new = shelved(prompt(300), used=5.0), shelved(prompt(300, 2), used=9.0)
    harness = started(new, old, room=400)
    harness.plan()
    assert list(harness.disk.files) == [new.entry]
    harness.settle()


def test_a_full_disk_is_cleared_by_half_then_given_up_once() -> None:
    harness = started(*(shelved(prompt(200, n)) for n in range(20, 24)), limits=Limits())
    harness.disk.space = 850
    harness.submit("a", prompt(300), 1)
    harness.run()
    assert saves(harness) == [300, 300]  # tried again, with success
    assert len(harness.disk.files) == 3
    assert len(verbs(harness)) == 3
    harness.disk.space = 0
    harness.submit("b", prompt(300, 2), 1)
    harness.run()
    assert harness.scheduler.disk_full
    assert len(saves(harness)) == 4
    harness.submit("c", prompt(300, 3), 1)
    harness.settle()
    assert len(saves(harness)) == 4


def test_full_with_nothing_to_evict_is_given_up_at_once() -> None:
    harness = started(limits=Limits())
    harness.disk.space = 10
    harness.submit("a", prompt(300), 1)
    harness.settle()
    assert harness.scheduler.disk_full
    assert len(saves(harness)) == 1


# Restoring


@pytest.mark.parametrize("trimmable", [True, False])
def test_after_a_restart_a_prompt_is_read_back(trimmable: bool) -> None:
    harness = started(shelved(prompt(500)), trimmable=trimmable)
    tracked = harness.submit("a", [*prompt(500), 7], 5)
    harness.settle()
    assert verbs(harness) == ["stage"]
    assert tracked.sequence.cached == 500
    assert harness.engine.prefilled_tokens == 1


def test_part_of_an_entry_is_used_where_it_can_be_trimmed() -> None:
    harness = started(shelved(prompt(500)))
    tracked = harness.submit("a", [*prompt(300), 7, 7], 5)
    harness.settle()
    assert tracked.sequence.cached == 300


def test_part_of_an_entry_is_of_no_use_where_it_can_not() -> None:
    harness = started(shelved(prompt(500)), trimmable=False)
    tracked = harness.submit("a", [*prompt(300), 7, 7], 5)
    harness.settle()
    assert not verbs(harness)
    assert tracked.sequence.cached == 0


def test_another_scope_has_nothing_of_it() -> None:
    harness = started(shelved(prompt(500), scope="key"))
    tracked = harness.submit("a", prompt(500), 5, scope="other")
    harness.settle()
    assert tracked.sequence.cached == 0


def test_what_spares_little_more_than_memory_is_not_read() -> None:
    harness = started(shelved(prompt(500)), limits=Limits())
    harness.submit("a", prompt(500 - LEAST + 1), 1)
    harness.run()
    tracked = harness.submit("b", [*prompt(500), 7], 1)
    harness.settle()
    assert tracked.sequence.cached in (500 - LEAST, 500 - LEAST + 1)
    assert verbs(harness) == ["stage"]  # the first


def test_one_that_waits_for_a_file_lets_others_pass() -> None:
    harness = started(shelved(prompt(500)))
    waits = harness.submit("a", prompt(500), 5)
    passes = harness.submit("b", prompt(20, 2), 5)
    while not passes.released:
        assert harness.plan() or harness.answer()
    assert waits.tokens == 0
    assert harness.scheduler.awaits_shelf
    harness.settle()
    assert waits.sequence.cached == 499


def test_what_waits_for_a_file_has_its_room() -> None:
    limits = Limits(parked=0, kv_tokens=700, kv_ahead=0)
    harness = started(shelved(prompt(500)), limits=limits)
    waits = harness.submit("a", prompt(500), 5)
    behind = harness.submit("b", prompt(300, 2), 5)
    fill(harness)
    assert behind.slot is None  # 500 of 700 are taken
    harness.hear()
    step = harness.plan()
    assert step is not None
    assert [restore.slot for restore in step.restore] == [Slot(0)]
    assert [(admit.slot, admit.keep) for admit in step.admit] == [(0, 499)]
    harness.settle()
    assert waits.finish is behind.finish is Finish.LENGTH


def test_one_that_could_not_be_read_is_forgotten_and_computed() -> None:
    harness = started(shelved(prompt(500)))
    tracked = harness.submit("a", prompt(500), 5)
    harness.plan()
    harness.hear(ok=False)
    harness.settle()
    assert tracked.sequence.cached == 0
    assert verbs(harness) == ["stage", "unstage", "delete"]
    assert not harness.disk.files


def test_one_that_takes_too_long_is_computed_and_used_later() -> None:
    harness = started(shelved(prompt(500)))
    tracked = harness.submit("a", prompt(500), 5)
    assert harness.plan() is None
    harness.clock.advance(STAGE_SECONDS - 0.1)
    assert harness.plan() is None
    harness.clock.advance(0.2)
    assert harness.plan() is not None
    assert not harness.scheduler.awaits_shelf
    second = harness.submit("b", prompt(500), 5)
    fill(harness)
    assert second.sequence.slot is not None  # no second order before the first is answered
    while harness.answer():
        fill(harness)
    assert tracked.sequence.cached == second.sequence.cached == 0
    harness.hear()
    third = harness.submit("c", prompt(500), 5)
    harness.settle()
    assert third.sequence.cached == 499
    assert verbs(harness) == ["stage", "unstage", "stage"]


def test_two_that_want_the_same_file_have_it_one_after_the_other() -> None:
    harness = started(shelved(prompt(500)))
    both = [harness.submit(name, [*prompt(500), stem], 5) for stem, name in enumerate("ab")]
    fill(harness)
    assert harness.disk.pending == [(Verb.STAGE, entry_name("", pack(prompt(500))))]
    harness.settle()
    assert [each.sequence.cached for each in both] == [500, 500]


@pytest.mark.parametrize("answered", [False, True])
def test_a_cancel_while_it_waits_leaves_nothing(answered: bool) -> None:
    harness = started(shelved(prompt(500)))
    tracked = harness.submit("a", prompt(500), 5)
    assert harness.plan() is None
    if answered:
        harness.hear()
    harness.end("a")
    assert tracked.released
    assert verbs(harness)[-1] == "unstage"
    harness.settle()
    assert not harness.steps
    again = harness.submit("b", prompt(500), 5)
    harness.settle()
    assert again.sequence.cached == 499


def test_one_that_gave_up_its_slot_may_come_back_from_disk() -> None:
    """The feed is then the prompt and what was generated."""
    limits = Limits(parked=2, kv_tokens=700, kv_ahead=4)
    harness = started(limits=limits)
    for stem in (1, 2):
        harness.submit(str(stem), prompt(250, stem), 150)
    harness.settle()
    assert harness.tracked["2"].interruptions == 1


def test_news_of_what_nobody_waits_for_is_no_error() -> None:
    harness = started(shelved(prompt(500)))
    harness.disk.pending.append((Verb.STAGE, entry_name("", pack(prompt(500)))))
    harness.hear(ok=False)
    harness.settle()
