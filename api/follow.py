"""One reader of a stream, as an HTTP answer."""

from __future__ import annotations

from starlette.types import Send

from api.sse import start_message
from api.streams import Stream
from api.terms import CONVERSATION
from cluster.core.errors import OffsetLost

ATTACHED = "Idempotent-Replayed"
"""Header of an answer that was not computed for this request."""


async def follow(stream: Stream, send: Send, offset: int, *, found: bool = False) -> None:
    """The stream's bytes from `offset` on, then what follows; the caller counts as a follower.

    Raises OffsetLost before anything is sent. One that is too slow is told by an error event,
    which is not part of the stream.
    """
    replay = stream.replay
    await replay.started.wait()
    first = replay.take(offset)
    headers = dict(replay.headers)
    if stream.terms.conversation is not None:
        headers[CONVERSATION] = stream.terms.conversation
    if found:
        headers[ATTACHED] = "true"
    await send(start_message(replay.content_type, headers, replay.status))
    last = b""
    try:
        if first:
            await send({"type": "http.response.body", "body": first, "more_body": True})
        async for part in replay.read(offset + len(first)):
            await send({"type": "http.response.body", "body": part, "more_body": True})
    except OffsetLost as error:
        last = stream.lost(error)
    await send({"type": "http.response.body", "body": last, "more_body": False})
    stream.delivered = stream.delivered or not last
