"""Streams that outlive their client: GET and DELETE /v1/stream/{id} (or ?conv_id=), and
POST /v1/streams/lookup."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from api.body import parse_object, read_body
from api.caller import caller_of
from api.errors import error_answer
from api.follow import follow
from api.hangup import until_hangup
from api.request_id import request_id
from api.sse import start_message
from api.streams import Stream, Streams
from api.terms import last_event, offset_of
from cluster.core.errors import InvalidRequest, NotFound, OffsetLost

EARLIEST = "X-Stream-Earliest"
"""Header of an answer to one who asks for an offset that is lost."""

LOOKUP_BYTES = 1 << 20
"""Most bytes of a lookup's body."""

LOOKUP_IDS = 1024
"""Most ids of one lookup."""


class OneStream:
    """GET follows a conversation's stream, DELETE stops it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        conversation = _conversation(scope)
        if scope["method"] == "DELETE":
            self._streams.delete(caller_of(scope).owner, conversation)
            await Response(status_code=204)(scope, receive, send)
            return
        stream = self._streams.of_conversation(caller_of(scope).owner, conversation)
        if stream is None:
            raise NotFound(
                f"there is no stream of the conversation {conversation[:200]!r}", param="id"
            )
        offset = _offset(scope, stream)
        async with until_hangup(receive):
            if scope["method"] == "HEAD":
                await _head(stream, send)
                return
            try:
                with stream.followed():
                    await follow(stream, send, offset)
            except OffsetLost as error:
                refusal = error_answer(error, request_id=request_id(scope))
                refusal.headers[EARLIEST] = str(stream.replay.earliest)
                await refusal(scope, receive, send)


class LookupStreams:
    """What is known of some conversations' streams; of no others."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, LOOKUP_BYTES)
        if body is None:
            return
        asked = _ids(parse_object(body))
        found = self._streams.lookup(caller_of(scope).owner, asked)
        answer = JSONResponse(
            [stream_object(stream) for stream in found], headers={"cache-control": "no-store"}
        )
        await answer(scope, receive, send)


def stream_object(stream: Stream) -> dict[str, Any]:
    """One stream as a lookup tells of it; times are Unix time, 0 for one not yet come."""
    return {
        "conversation_id": stream.terms.conversation,
        "is_done": stream.replay.ended_at is not None,
        "total_bytes": stream.replay.total,
        "earliest_offset": stream.replay.earliest,
        "started_at": stream.started_at,
        "completed_at": stream.completed_at or 0,
    }


def _conversation(scope: Scope) -> str:
    named = scope["path_params"].get("id") or QueryParams(scope["query_string"]).get("conv_id")
    if not named:
        raise InvalidRequest("conv_id: name the conversation, as in ?conv_id=ID", param="conv_id")
    return str(named)


def _offset(scope: Scope, stream: Stream) -> int:
    """Where to read from; Last-Event-ID is what a browser sends when it comes back by itself, to
    the same address."""
    if (after := last_event(Headers(scope=scope))) is not None:
        return stream.replay.event_at(after)
    return offset_of(QueryParams(scope["query_string"]).get("from") or "0", "from")


async def _head(stream: Stream, send: Send) -> None:
    await stream.replay.started.wait()
    replay = stream.replay
    await send(start_message(replay.content_type, replay.headers, replay.status))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _ids(body: dict[str, Any]) -> list[str]:
    ids = body.get("conversation_ids")
    if not isinstance(ids, list) or not all(isinstance(each, str) and each for each in ids):
        raise InvalidRequest(
            "conversation_ids: must be a list of ids, which are texts", param="conversation_ids"
        )
    if len(ids) > LOOKUP_IDS:
        raise InvalidRequest(
            f"conversation_ids: has {len(ids)}, and at most {LOOKUP_IDS} can be asked for",
            param="conversation_ids",
        )
    return ids
