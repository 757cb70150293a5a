"""Token channels: open, draining, gone; nothing lost, nothing delivered past the end."""

from __future__ import annotations

import pytest

from cluster.core.channel import ChannelState, ChannelTable, TokenChannel
from cluster.core.errors import EpochEnded
from cluster.core.ids import RequestId
from cluster.core.request import Finish, Piece

A, B = RequestId("a"), RequestId("b")


@pytest.fixture
def table() -> ChannelTable:
    return ChannelTable()


def test_a_channel_is_registered_by_being_made(table: ChannelTable) -> None:
    assert A not in table
    channel = TokenChannel(A, table)
    assert A in table
    assert len(table) == 1
    assert channel.state is ChannelState.OPEN
    assert channel.finish is None
    assert table.find(A, 1) is channel


def test_an_id_has_one_channel(table: ChannelTable) -> None:
    first = TokenChannel(A, table)
    with pytest.raises(ValueError, match="already has a channel"):
        TokenChannel(A, table)
    assert table.find(A, 1) is first
    first.close(Finish.STOP)
    with pytest.raises(ValueError, match="already has a channel"):
        TokenChannel(A, table)  # draining: its slot is still held


def test_an_id_may_be_used_again_once_its_channel_is_gone(table: ChannelTable) -> None:
    TokenChannel(A, table)
    table.remove(A)
    again = TokenChannel(A, table)
    assert table.find(A, 1) is again


def test_what_comes_before_the_reader_is_kept_in_order(table: ChannelTable) -> None:
    channel = TokenChannel(A, table)
    for text in ("Hel", "lo", "", "!"):
        channel.put(Piece(text, 1))
    channel.close(Finish.STOP)
    assert channel.take() == Piece("Hello!", 4)
    assert channel.take() is None


def test_pieces_between_two_takes_become_one(table: ChannelTable) -> None:
    channel = TokenChannel(A, table)
    assert channel.take() is None
    channel.put(Piece("one ", 2))
    channel.put(Piece("two", 1))
    assert channel.take() == Piece("one two", 3)
    channel.put(Piece(" three", 1))
    assert channel.take() == Piece(" three", 1)
    assert channel.take() is None


def test_tokens_whose_text_is_held_back_are_counted(table: ChannelTable) -> None:
    channel = TokenChannel(A, table)
    channel.put(Piece("", 1))
    assert channel.take() == Piece("", 1)


def test_text_without_a_token_arrives(table: ChannelTable) -> None:
    """What a detokenizer held back comes out at the end, on no token's account."""
    channel = TokenChannel(A, table)
    channel.put(Piece("rest", 0))
    assert channel.take() == Piece("rest", 0)


def test_every_change_wakes_the_reader(table: ChannelTable) -> None:
    channel = TokenChannel(A, table)
    seen: list[ChannelState] = []
    channel.wake = lambda: seen.append(channel.state)
    channel.put(Piece("x", 1))
    channel.put(Piece("y", 1))
    channel.close(Finish.STOP)
    channel.close(Finish.CANCELLED)
    assert seen == [ChannelState.OPEN, ChannelState.OPEN, ChannelState.DRAINING]


def test_the_first_close_counts(table: ChannelTable) -> None:
    channel = TokenChannel(A, table)
    error = EpochEnded("rank 1 was lost")
    channel.close(Finish.FAILED, error)
    channel.close(Finish.STOP)
    assert channel.state is ChannelState.DRAINING
    assert channel.finish is Finish.FAILED
    assert channel.error is error


@pytest.mark.parametrize("gone", [False, True])
def test_nothing_can_be_put_after_the_end(table: ChannelTable, gone: bool) -> None:
    channel = TokenChannel(A, table)
    channel.close(Finish.STOP)
    if gone:
        table.remove(A)
    with pytest.raises(ValueError, match="is over"):
        channel.put(Piece("late", 1))
    assert channel.take() is None


def test_tokens_for_a_draining_channel_are_counted_as_drained(table: ChannelTable) -> None:
    TokenChannel(A, table).close(Finish.STOP)
    assert table.find(A, 3) is None
    table.drained(2)
    assert (table.drained_tokens, table.orphan_tokens) == (5, 0)


def test_tokens_without_a_channel_are_orphans(table: ChannelTable) -> None:
    TokenChannel(A, table)
    assert table.find(B, 2) is None
    table.remove(A)
    assert table.find(A, 1) is None
    assert (table.drained_tokens, table.orphan_tokens) == (0, 3)


def test_delivered_tokens_are_neither_drained_nor_orphans(table: ChannelTable) -> None:
    TokenChannel(A, table)
    table.find(A, 7)
    assert (table.drained_tokens, table.orphan_tokens) == (0, 0)


def test_removing_makes_it_gone_and_keeps_why_it_ended(table: ChannelTable) -> None:
    channel = TokenChannel(A, table)
    channel.put(Piece("all", 1))
    channel.close(Finish.LENGTH)
    table.remove(A)
    assert channel.state is ChannelState.GONE
    assert channel.finish is Finish.LENGTH
    assert len(table) == 0
    assert channel.take() == Piece("all", 1)  # a slow reader still gets everything
    channel.close(Finish.CANCELLED)
    assert channel.state is ChannelState.GONE
    assert channel.finish is Finish.LENGTH


def test_removing_an_open_channel_ends_it_for_its_reader(table: ChannelTable) -> None:
    channel = TokenChannel(A, table)
    woken: list[bool] = []
    channel.wake = lambda: woken.append(True)
    table.remove(A)
    assert channel.state is ChannelState.GONE
    assert channel.finish is Finish.CANCELLED
    assert woken == [True]


def test_removing_twice_or_what_never_was_is_no_error(table: ChannelTable) -> None:
    TokenChannel(A, table)
    table.remove(A)
    table.remove(A)
    table.remove(B)
    assert len(table) == 0


def test_channels_do_not_mix(table: ChannelTable) -> None:
    one, other = TokenChannel(A, table), TokenChannel(B, table)
    one.put(Piece("for a", 1))
    one.close(Finish.STOP)
    assert other.take() is None
    assert other.state is ChannelState.OPEN
    assert table.find(B, 1) is other
    assert one.take() == Piece("for a", 1)
