"""What must be known of each live request to go on with it elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cluster.core.channel import TokenChannel
from cluster.core.ids import RequestId
from cluster.core.request import Request, StepTiming, Timing, Usage
from cluster.scheduler.sequence import Sequence
from cluster.text.stream import TextStream
from cluster.text.tokenizer import Tokenizer

STEPS_KEPT = 4096
"""Steps of one request that are recorded, if it wants that: the latest ones."""


def _nobody(request_id: RequestId) -> None:
    """No coordinator has it yet."""


@dataclass(slots=True)
class Entry:
    """One live request: what came in, what came out, and what turns ids into text."""

    request: Request
    sequence: Sequence
    """Its generated ids and counts."""
    channel: TokenChannel
    text: TextStream
    """Detokenizer and stop strings, at the place they have got to."""
    tokenizer: Tokenizer
    delivered: int = 0
    """Tokens given to the channel so far."""
    first: float | None = None
    """When the first of them was given to it, on the coordinator's clock."""
    last: float = 0.0
    """When the last of them was."""
    ended: float | None = None
    """When the channel was closed."""
    steps: deque[StepTiming] | None = None
    """Steps that computed for it, the latest ones; None unless asked for."""
    cancel: Callable[[RequestId], None] = _nobody
    """Of the coordinator that has it now."""

    @property
    def usage(self) -> Usage:
        """Exact once the channel is closed."""
        return Usage(self.sequence.prompt_tokens, self.sequence.cached, self.delivered)

    @property
    def timing(self) -> Timing:
        """Exact once the channel is closed."""
        submitted, begun = self.sequence.submitted, self.sequence.begun
        queued = _between(submitted, begun if begun is not None else self.ended)
        prefill = _between(begun, self.first if self.first is not None else self.ended)
        return Timing(
            queued=queued,
            prefill=prefill,
            decode=_between(self.first, self.last),
            total=_between(submitted, self.ended),
            first_token=None if self.first is None else self.first - submitted,
        )

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids given to the channel so far. One that ends the answer is no part of it, nor is
        what was computed behind a stop string."""
        ids = tuple(self.sequence.tokens[: self.delivered])
        return ids[:-1] if ids and ids[-1] in self.request.end_ids else ids


def _between(start: float | None, end: float | None) -> float:
    return 0.0 if start is None or end is None else end - start


Journal = dict[RequestId, Entry]
"""An entry lives from submission until every rank has let go of the request."""
