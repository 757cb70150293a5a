"""Token channels: where a request's tokens arrive.

A channel exists before any step can name its request, because the scheduler takes a channel to
admit one, and a channel can't be made without being registered. It goes open, draining, gone:
draining once the request is over for its client, gone once every rank has let go of its slot.
Tokens that arrive while it drains were computed past the end; they are counted, not delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from cluster.core.errors import TandemError
from cluster.core.ids import RequestId
from cluster.core.request import Finish, Piece, TokenLogprob


class ChannelState(StrEnum):
    """The life of a channel, in order."""

    OPEN = "open"
    DRAINING = "draining"
    GONE = "gone"


class ChannelTable:
    """Every channel that is open or draining, by request."""

    def __init__(self) -> None:
        self._channels: dict[RequestId, TokenChannel] = {}
        self.drained_tokens = 0
        """Tokens computed past the end of their request, ever."""
        self.orphan_tokens = 0
        """Tokens that had no channel at all, ever. Anything but 0 is a bug."""

    def __len__(self) -> int:
        return len(self._channels)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._channels

    def register(self, channel: TokenChannel) -> None:
        """Called by the channel itself; raises ValueError when the id is taken."""
        if channel.request_id in self._channels:
            raise ValueError(f"request {channel.request_id} already has a channel")
        self._channels[channel.request_id] = channel

    def give(self, request_id: RequestId) -> TokenChannel:
        """Take out a channel that goes on, to be registered in another table at once. Raises
        KeyError when there is none."""
        return self._channels.pop(request_id)

    def find(self, request_id: RequestId, tokens: int) -> TokenChannel | None:
        """The open channel for `tokens` new tokens. None when there is none to deliver to; the
        tokens are then counted as drained, or as orphans."""
        channel = self._channels.get(request_id)
        if channel is None:
            self.orphan_tokens += tokens
            return None
        if channel.state is ChannelState.DRAINING:
            self.drained_tokens += tokens
            return None
        return channel

    def drained(self, tokens: int) -> None:
        """Count tokens that the scheduler already knew to be past the end."""
        self.drained_tokens += tokens

    def remove(self, request_id: RequestId) -> None:
        """Every rank has let go: the channel is gone. No channel by that id is no error."""
        channel = self._channels.pop(request_id, None)
        if channel is not None:
            channel.close(Finish.CANCELLED)
            channel.state = ChannelState.GONE


class TokenChannel:
    """Carries one request's pieces from the step loop to whoever reads them.

    Holds at most one answer: pieces that nobody has taken yet are joined into one, so it is
    bounded by the request's max_tokens however slow the reader is.
    """

    def __init__(self, request_id: RequestId, table: ChannelTable) -> None:
        self.request_id = request_id
        self.state = ChannelState.OPEN
        self.finish: Finish | None = None
        self.error: TandemError | None = None
        self.wake: Callable[[], None] = _nobody
        """Called after every change; the reader sets it."""
        self._text: list[str] = []
        self._tokens = 0
        self._logprobs: list[TokenLogprob] = []
        table.register(self)

    def put(self, piece: Piece) -> None:
        """Add to what the reader will take next. Raises ValueError when not open."""
        if self.state is not ChannelState.OPEN:
            raise ValueError(f"request {self.request_id} is over ({self.state})")
        self._text.append(piece.text)
        self._tokens += piece.tokens
        self._logprobs.extend(piece.logprobs)
        self.wake()

    def take(self) -> Piece | None:
        """All that has come since the last call, as one piece; None when nothing has."""
        if not self._tokens and not self._text:
            return None
        piece = Piece("".join(self._text), self._tokens, tuple(self._logprobs))
        self._text.clear()
        self._tokens = 0
        self._logprobs.clear()
        return piece

    def close(self, finish: Finish, error: TandemError | None = None) -> None:
        """The request is over for its client: nothing more will be put. The first call counts."""
        if self.state is not ChannelState.OPEN:
            return
        self.state = ChannelState.DRAINING
        self.finish = finish
        self.error = error
        self.wake()


def _nobody() -> None:
    """Nobody reads yet."""
