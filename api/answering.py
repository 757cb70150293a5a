"""From a request that was taken to its answer, whole or as a stream: the same for all dialects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from api.convert.form import check_answer
from api.convert.orders import Prepared
from api.dialect import Choice, Reply, Writer
from api.serving import Generation
from api.sse import Sink
from cluster.core.answer import Call, CallArguments, CallBegun, Part, Text, Thought
from cluster.core.errors import Interrupted, TandemError
from cluster.core.request import Finish, Piece, TokenLogprob
from cluster.core.timeline import Track

log = structlog.stdlib.get_logger("tandem.api")

COMPLETE = (Finish.STOP, Finish.LENGTH)
"""How an answer ends well; anything else is an error."""

Remember = Callable[[Sequence[Call], Sequence[int]], None]
"""Takes an answer's calls and the ids it was sampled as."""


class Answer:
    """One generation, read as parts."""

    def __init__(self, generation: Generation, prepared: Prepared) -> None:
        self._generation = generation
        self._prepared = prepared
        self._parser = prepared.parser() if prepared.parser else None
        self._timeline = prepared.timeline
        self._text: list[str] = []
        self._calls: list[tuple[CallBegun, list[str]]] = []

    def take(self, piece: Piece) -> list[Part]:
        """The parts that a piece of text completes."""
        if self._timeline is None:
            return self._take(piece)
        begun = self._timeline.now
        parts = self._take(piece)
        self._timeline.add(Track.PARSER, "parse", begun, tokens=piece.tokens)
        return parts

    def _take(self, piece: Piece) -> list[Part]:
        return self._seen(self._parser.feed(piece.text) if self._parser else _plain(piece.text))

    def end(self) -> list[Part]:
        """What was held back, once every piece was taken.

        Raises Interrupted when the answer is not complete, or not what it had to be.
        """
        finish = self.finish
        parts = self._parser.finish(cut=finish is Finish.LENGTH) if self._parser else []
        self._seen(parts)
        form, stops = self._prepared.form, bool(self._prepared.ask.stop)
        check_answer(form, "".join(self._text), finish, stops=stops)
        if form.call and finish is Finish.STOP and not self._calls:
            raise Interrupted("the answer is incomplete: it should be a tool call and is none")
        return parts

    @property
    def finish(self) -> Finish:
        """How it has ended; raises Interrupted unless well."""
        finish = self._generation.finish
        if finish not in COMPLETE:
            raise Interrupted(f"the answer is incomplete: the request was {finish or 'left off'}")
        return finish

    @property
    def stop(self) -> str | None:
        """The stop string that ended it."""
        return self._generation.stop

    @property
    def calls(self) -> tuple[Call, ...]:
        """Its tool calls so far."""
        return tuple(Call(one.id, one.name, "".join(rest)) for one, rest in self._calls)

    @property
    def ids(self) -> tuple[int, ...]:
        """What it was sampled as."""
        return self._generation.ids

    def _seen(self, parts: list[Part]) -> list[Part]:
        for part in parts:
            match part:
                case CallBegun():
                    self._calls.append((part, []))
                case CallArguments(index, text):
                    self._calls[index][1].append(text)
                case Text(text) if self._prepared.form.json:
                    self._text.append(text)
        return parts


def _plain(text: str) -> list[Part]:
    return [Text(text)] if text else []


@dataclass(slots=True)
class _Whole:
    """An answer being collected."""

    text: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, parts: Sequence[Part]) -> None:
        for part in parts:
            match part:
                case Text(text):
                    self.text.append(text)
                case Thought(text):
                    self.thought.append(text)


async def collect(reply: Reply, prepared: Prepared, remember: Remember) -> list[Choice]:
    """Every answer in full, in the order of their index. Raises TandemError."""
    done: dict[int, Choice] = {}

    async def read(index: int, generation: Generation) -> None:
        answer, whole = Answer(generation, prepared), _Whole()
        async for piece in generation:
            whole.add(answer.take(piece))
            whole.logprobs.extend(piece.logprobs)
        whole.add(answer.end())
        remember(answer.calls, answer.ids)
        done[index] = Choice(
            index=index,
            text="".join(whole.text),
            thought="".join(whole.thought),
            calls=answer.calls,
            finish=answer.finish,
            stop=answer.stop,
            logprobs=tuple(whole.logprobs),
        )

    await reply.choices.each(read)
    return [done[index] for index in sorted(done)]


async def relay(
    reply: Reply, prepared: Prepared, writer: Writer, sink: Sink, remember: Remember
) -> str:
    """Write the answers as they come; returns what ends the stream, well or not."""

    async def read(index: int, generation: Generation) -> None:
        answer = Answer(generation, prepared)
        async for piece in generation:
            parts = answer.take(piece)
            if parts or piece.logprobs:
                await sink.write(writer.parts(index, parts, piece.logprobs))
        last = answer.end()
        # Before the client knows of the call, and may send it back.
        remember(answer.calls, answer.ids)
        frames = writer.parts(index, last, ()) if last else ""
        await sink.write(frames + writer.finish(index, answer.finish, answer.stop))

    try:
        await reply.choices.each(read)
        return writer.end()
    except TandemError as error:
        log.warning("failed after headers", id=reply.id, error=type(error).__name__)
        sink.fail(error)
        return writer.fail(error)
