"""OpenAI's responses: how an answer is written, as an object and as events. Pure.

    response.created, response.queued (background), response.in_progress
      for each item     response.output_item.added ... response.output_item.done
        of a message    content_part.added, output_text.delta ..., output_text.done,
                        content_part.done
        of reasoning    content_part.added, reasoning_text.delta ..., and so on; as a summary
                        reasoning_summary_part.added, reasoning_summary_text.delta ...
        of a call       function_call_arguments.delta ..., function_call_arguments.done
    response.completed, response.incomplete (also of one that was cancelled: its status says so),
    or error and response.failed

Every event has a `sequence_number`, from 0, without gaps; a sign of life repeats
response.in_progress and the last number. One writer makes both the events and the object, so they
can't differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from api.convert.openai_chat import as_line, call_id, error_event
from api.convert.openai_logprobs import logprobs_object
from api.convert.openai_responses_open import OpenCall, OpenItem, OpenReasoning, OpenText
from api.convert.openai_responses_read import ResponsesAsk
from api.dialect import Choice, Reply, comment, event, progress_line
from cluster.core.answer import CallArguments, CallBegun, Part, Text, Thought
from cluster.core.errors import TandemError
from cluster.core.request import Finish, Phase, Progress, TokenLogprob, Usage


def response_id(generation_id: str) -> str:
    """Of a response whose generation has this id: resp-1f00... gives resp_1f00..."""
    return generation_id.replace("-", "_", 1)


class ResponseWriter:
    """One response, as an `api.dialect.Writer`."""

    def __init__(self, reply: Reply, now: Callable[[], float]) -> None:
        """`now`: Unix time."""
        assert isinstance(reply.ask, ResponsesAsk)
        self.id = response_id(reply.id)
        self._reply = reply
        self._ask = reply.ask
        self._now = now
        self._sequence = 0
        self._begun = False
        self._in_progress = False
        self._status: str | None = None
        self._finish = Finish.STOP
        self._error: dict[str, Any] | None = None
        self._completed_at: int | None = None
        self._done: list[dict[str, Any]] = []
        self._open: OpenItem | None = None
        self._logprobs: list[dict[str, Any]] = []
        """Of tokens whose text has not come yet."""

    def begin(self) -> str:
        """What is known before anything is computed; the other methods send it first where it
        was not sent before."""
        if self._begun:
            return ""
        self._begun = True
        frames = self._lifecycle("created")
        return frames + (self._lifecycle("queued") if self._ask.background else self._go())

    def parts(self, index: int, parts: Sequence[Part], logprobs: Sequence[TokenLogprob]) -> str:
        """See Writer."""
        frames = [self.begin(), self._go()]
        if self._ask.logprobs is not None:
            self._logprobs += logprobs_object(logprobs)["content"]
        for part in parts:
            match part:
                case Text(text):
                    frames.append(self._opened(OpenText))
                    frames.append(self._written(text))
                case Thought(text):
                    frames.append(self._opened(OpenReasoning))
                    frames.append(self._written(text))
                case CallBegun(_, call, name):
                    frames.append(self._call_begun(call_id(call), name))
                case CallArguments(_, text):
                    frames.append(self._written(text))
        return "".join(frames)

    def finish(self, index: int, finish: Finish, stop: str | None) -> str:
        """See Writer."""
        frames = self.begin() + self._go()
        self._finish = finish
        said = any(item["type"] != "reasoning" for item in self._done)
        if finish is Finish.STOP and not said and not isinstance(self._open, OpenText | OpenCall):
            frames += self._opened(OpenText)  # clients look for a message
        return frames + self._closed("completed" if finish is Finish.STOP else "incomplete")

    def end(self) -> str:
        """See Writer."""
        self._completed_at = int(self._now())
        self._status = "completed" if self._finish is Finish.STOP else "incomplete"
        return self._lifecycle(self._status)

    def fail(self, error: TandemError) -> str:
        """See Writer: the event that says what went wrong, and the response as far as it came."""
        told = error_event(error)["error"]
        frames = self.begin() + self._closed("incomplete")
        # OpenAI's list of codes in this place has none of ours.
        self._error = {"code": "server_error", "message": told["message"]}
        self._status = "failed"
        return frames + self._event("error", told) + self._lifecycle("failed")

    def cancelled(self) -> str:
        """Somebody wanted no more of it: the last that is sent."""
        frames = self.begin() + self._closed("incomplete")
        self._status = "cancelled"
        return frames + self._lifecycle("incomplete")

    def life(self, progress: Progress) -> str:
        """See Writer. Codex counts no comments, and gives up when no event comes for a while. The
        event has the number of the last one: signs are kept by nobody, so that the numbers would
        have a gap."""
        frames = self.begin()
        if not frames and self._in_progress:
            told = {"response": self.response()}
            frames = self._numbered("response.in_progress", told, self._sequence - 1)
        return frames + comment(progress_line(progress))

    def sign(self) -> str:
        """A sign of life that is no part of the response."""
        return comment(progress_line(self._reply.choices.progress))

    def whole(self, choice: Choice) -> str:
        """All events of an answer that is there already."""
        parts: list[Part] = [Thought(choice.thought)] if choice.thought else []
        if choice.text:
            parts.append(Text(choice.text))
        for number, call in enumerate(choice.calls):
            parts += [CallBegun(number, call.id, call.name), CallArguments(number, call.arguments)]
        frames = self.parts(0, parts, choice.logprobs)
        return frames + self.finish(0, choice.finish, choice.stop) + self.end()

    def response(self) -> dict[str, Any]:
        """The response object as of now."""
        reason = "max_output_tokens" if self._status == "incomplete" else None
        over = self._status is not None
        open_one = self._open
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self._reply.created),
            "completed_at": self._completed_at if self._status == "completed" else None,
            "status": self._status or self._running,
            "error": self._error,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._reply.model,
            "output": [*self._done, open_one.item("in_progress")] if open_one else [*self._done],
            "usage": usage_object(self._reply.choices.usage) if over else None,
            **self._ask.told,
        }

    @property
    def _running(self) -> str:
        queued = self._reply.choices.progress.phase is Phase.QUEUED
        return "queued" if self._ask.background and queued else "in_progress"

    def _opened(self, kind: type[OpenText | OpenReasoning]) -> str:
        """Open an item, unless one of its kind is open."""
        if isinstance(self._open, kind):
            return ""
        closed = self._closed("completed")
        if kind is OpenText:
            opened: OpenItem = OpenText(f"msg_{self._item_id}")
        else:
            opened = OpenReasoning(f"rs_{self._item_id}", summarized=self._ask.summarized)
        return closed + self._added(opened)

    def _call_begun(self, call: str, name: str) -> str:
        closed = self._closed("completed")
        return closed + self._added(OpenCall(f"fc_{self._item_id}", call, name))

    def _added(self, opened: OpenItem) -> str:
        self._open = opened
        return self._told(opened.added())

    def _written(self, text: str) -> str:
        """Some more of the open item; text without an item is none."""
        if self._open is None or not text:
            return ""
        logprobs, self._logprobs = self._logprobs, []
        return self._told(self._open.write(text, logprobs))

    def _closed(self, status: str) -> str:
        if self._open is None:
            return ""
        frames = self._told(self._open.done(status, self._logprobs))
        self._logprobs = []
        self._done.append(self._open.item(status))
        self._open = None
        return frames

    @property
    def _item_id(self) -> str:
        return f"{self.id.partition('_')[2]}{len(self._done):02x}"

    def _told(self, events: Sequence[tuple[str, dict[str, Any]]]) -> str:
        index = len(self._done)
        return "".join(
            self._event(f"response.{name}", {"output_index": index, **rest})
            for name, rest in events
        )

    def _go(self) -> str:
        if self._in_progress:
            return ""
        self._in_progress = True
        return self._lifecycle("in_progress")

    def _lifecycle(self, name: str) -> str:
        return self._event(f"response.{name}", {"response": self.response()})

    def _event(self, name: str, fields: dict[str, Any]) -> str:
        self._sequence += 1
        return self._numbered(name, fields, self._sequence - 1)

    @staticmethod
    def _numbered(name: str, fields: dict[str, Any], number: int) -> str:
        # Last, so that "type" is the event's also where an error has one of its own.
        return event(as_line({**fields, "type": name, "sequence_number": number}), name=name)


def usage_object(usage: Usage) -> dict[str, Any]:
    """Tokens as responses count them. Reasoning is not counted apart."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
