"""A model's tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cluster.core.errors import InvalidRequest, ModelUnavailable
from cluster.text.grammar import CallSyntax, refusals
from cluster.text.message import in_turns, plain, short_ids
from cluster.text.notation import notation_of
from cluster.text.spelling import Spelling
from cluster.text.spoken import TEMPLATE_FAULTS, Template, pieces

_TAIL = 512
"""Ids at a prompt's end among which an open think block is looked for."""
_NONE: Mapping[int, Sequence[int]] = MappingProxyType({})


class Tokenizer:
    """What Tandem needs of a tokenizer; the only importer of transformers and mlx_lm's.

    No method keeps state, so that long prompts can be tokenized in a worker thread while other
    answers are decoded.
    """

    def __init__(self, wrapped: Any, end_ids: frozenset[int], file: Path | None = None) -> None:
        """`file` is its tokenizer.json, which grammars need."""
        inner = wrapped._tokenizer  # noqa: SLF001 - the wrapper has no public name for it
        self._wrapped = wrapped
        self._inner = inner
        self._backend = _backend(inner)
        self._spelling = Spelling.of(self._backend)
        self.end_ids = end_ids
        """Ids that end an answer."""
        self.special_ids = frozenset(int(token) for token in inner.all_special_ids)
        """Ids without a text of their own."""
        self.vocab_size = len(inner)
        """Ids are below this."""
        self.special_names = tuple(
            str(token.content) for token in inner.added_tokens_decoder.values() if token.special
        )
        """Of the tokens that are no text, those without a role included."""
        shown = {
            int(token): str(added.content)
            for token, added in inner.added_tokens_decoder.items()
            if added.special or token in self.special_ids
        }
        self._skipped = end_ids | shown.keys()
        self.notation = notation_of(wrapped, shown, end_ids)
        """How the model marks reasoning and tool calls."""
        notation = self.notation
        self.call_syntax = (
            CallSyntax(notation.call_start, notation.call_end)
            if notation.json_calls
            else CallSyntax()
        )
        """How it is made to write one: in its own notation where that is JSON, else as bare
        JSON."""
        self._file = file

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read the tokenizer of a model folder; its own Python code, if any, is never run.

        Raises ModelUnavailable when there is none or it can't be read. Takes a second or more,
        most of it for importing transformers; so that is done here.
        """
        from mlx_lm import tokenizer_utils

        try:
            # Said outright: transformers would ask at a terminal, and take a "y" for an answer.
            wrapped = tokenizer_utils.load(folder, {"trust_remote_code": False})
            end_ids = frozenset(wrapped.eos_token_ids) | _configured_end_ids(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(": ")
            if not (folder / "tokenizer.json").is_file():
                reason = f"there is no tokenizer.json ({reason})"
            raise ModelUnavailable(f"the tokenizer in {folder} can't be read: {reason}") from error
        file = folder / "tokenizer.json"
        return cls(wrapped, end_ids, file if file.is_file() else None)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        spoken: Mapping[int, Sequence[int]] = _NONE,
    ) -> tuple[int, ...]:
        """Token ids of a conversation, up to where the assistant's next answer begins.

        A message's content is a string or a list of {"type": "text", "text": ...}; an assistant's
        may have `tool_calls` (OpenAI's, their arguments a mapping or JSON) and
        `reasoning_content`, a tool's `tool_call_id` and `name`. `thinking` None leaves it to the
        model. `spoken` has for some assistants' messages, by place, the ids that the model
        sampled as that message, without the end id: they are put where the message would be, so
        that the conversation goes on as it was. Where the template doesn't let them, the message
        itself is rendered. A template that refuses the messages gets them as `in_turns` has them.
        Raises InvalidRequest when the model has no chat template or its template refuses these
        too.
        """
        if not self._wrapped.has_chat_template:
            raise InvalidRequest(
                "this model has no chat template: it completes text and can't chat",
                param="messages",
            )
        template = self._template(tools, thinking)
        try:
            known = [plain(message) for message in messages]
            try:
                return self._prompt(template, known, spoken)
            except TEMPLATE_FAULTS:
                turns, places = in_turns(known)
                if turns == known:
                    raise
                placed = {places[place]: ids for place, ids in spoken.items() if place < len(known)}
                return self._prompt(template, turns, placed)
        except TEMPLATE_FAULTS as error:
            raise InvalidRequest(
                f"this model's chat template refuses the messages: {error}", param="messages"
            ) from error

    def _prompt(
        self,
        template: Template,
        messages: Sequence[Mapping[str, Any]],
        spoken: Mapping[int, Sequence[int]],
    ) -> tuple[int, ...]:
        """Raises what the template raises."""
        parts = pieces(template, messages, spoken) if spoken else None
        if parts is None:
            return self.encode(_rendered(template, messages))
        ids = [self.encode(part) if isinstance(part, str) else part for part in parts]
        return tuple(token for part in ids for token in part)

    def _template(
        self, tools: Sequence[Mapping[str, Any]] | None, thinking: bool | None
    ) -> Template:
        options = {} if thinking is None else {"enable_thinking": thinking}

        def render(messages: Sequence[Mapping[str, Any]], answer: bool) -> str:
            text: str = self._wrapped.apply_chat_template(
                list(messages),
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=answer,
                **options,
            )
            return text

        return render

    def thinks(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends within an open think block. Only the end is looked at, and no
        further than to where the last message ends: what that says of think blocks is no
        block."""
        start, end = self._wrapped.think_start_tokens, self._wrapped.think_end_tokens
        if not start or not end:
            return False
        tail = tuple(prompt[-_TAIL:])
        others = self._skipped - self.notation.marker_ids.keys()
        for place in range(len(tail) - 1, -1, -1):
            if tail[place : place + len(end)] == end or tail[place] in others:
                return False
            if tail[place : place + len(start)] == start:
                return True
        return False

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text, without the special tokens that some tokenizers put around it."""
        if self._backend is None:
            return tuple(self._inner.encode(text, add_special_tokens=False))
        # As a batch of one: without offsets, and the GIL is released meanwhile.
        return tuple(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of some ids, special tokens skipped, nothing tidied up."""
        if self._backend is None:
            text: str = self._inner.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        else:
            text = self._backend.decode(ids, skip_special_tokens=True)
        return text

    def grammar_refusals(self, grammars: Sequence[str]) -> tuple[str, ...]:
        """Why each of `grammars` can't be used with this model; empty for one that can. Blocks:
        see `cluster.text.grammar.refusals`."""
        if self._file is None:
            return ("this model has no tokenizer.json",) * len(grammars)
        return refusals(grammars, self.special_names, self._file)

    def token_bytes(self, token: int) -> bytes:
        """What one id stands for, also where that is only part of a character; a special token
        stands for its name, an id without a token for nothing."""
        piece = self._inner.convert_ids_to_tokens(token) if 0 <= token < self.vocab_size else None
        if piece is None:
            return b""
        if token in self.special_ids:
            return str(piece).encode()
        found = self._spelling.bytes_of(piece)
        return self.decode((token,)).encode() if found is None else found


def _backend(inner: Any) -> Any:
    """The `tokenizers` object behind a fast tokenizer, or None when only the long way is right:
    a slow tokenizer, or one whose class changes text on its way in or out."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    plain = (
        isinstance(inner, PreTrainedTokenizerFast)
        and type(inner).encode is PreTrainedTokenizerBase.encode
        and type(inner).decode is PreTrainedTokenizerBase.decode
    )
    if not plain:
        return None
    backend = inner.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _rendered(template: Template, messages: Sequence[Mapping[str, Any]]) -> str:
    """Raises what the template raises."""
    try:
        return template(messages, True)
    except TEMPLATE_FAULTS:
        shorter = short_ids(messages)
        if shorter == messages:
            raise
        return template(shorter, True)


def _configured_end_ids(folder: Path) -> frozenset[int]:
    """End ids of generation_config.json and config.json, which tokenizers often lack."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        config = json.loads(path.read_text(encoding="utf-8"))
        for part in (config, config.get("text_config") or {}):
            ids = part.get("eos_token_id")
            found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)
