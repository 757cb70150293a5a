"""What must be known of each live request to go on with it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.core.channel import TokenChannel
from cluster.core.ids import RequestId
from cluster.core.request import Request, Usage
from cluster.scheduler.sequence import Sequence
from cluster.text.stream import TextStream


@dataclass(slots=True)
class Entry:
    """One live request: what came in, what came out, and what turns ids into text."""

    request: Request
    sequence: Sequence
    """Its generated ids and counts."""
    channel: TokenChannel
    text: TextStream
    """Detokenizer and stop strings, at the place they have got to."""
    delivered: int = 0
    """Tokens given to the channel so far."""

    @property
    def usage(self) -> Usage:
        """Exact once the channel is closed."""
        return Usage(self.sequence.prompt_tokens, self.sequence.cached, self.delivered)


Journal = dict[RequestId, Entry]
"""An entry lives from submission until every rank has let go of the request."""
