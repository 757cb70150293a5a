"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from api.caller import caller_of
from api.convert.orders import render
from api.convert.tokens import check_ids, text_object, to_detokenize, to_tokenize, tokens_object
from api.routes.models import Endpoint
from api.routes.posted import posted
from api.service import Service

LARGEST = 8 << 20
"""Bytes of a body: what comes of one is several times as large."""


def tokenize(service: Service) -> Endpoint:
    """The ids of a text, or of a conversation up to where its answer begins: the prompt that
    /v1/chat/completions would have."""

    def answer(body: dict[str, Any], scope: Scope) -> dict[str, Any]:
        ask, pieces = to_tokenize(body)
        answers = service.fleet.find(ask.model)
        tokenizer, owner = answers.tokenizer, caller_of(scope).owner
        _, prompt = render(ask, tokenizer, service.recall, owner=owner)
        return tokens_object(prompt, tokenizer, answers.model.context, pieces=pieces)

    return posted(answer, service.tokenizing, min(LARGEST, service.body_bytes))


def detokenize(service: Service) -> Endpoint:
    """The text of some ids, without special tokens."""

    def answer(body: dict[str, Any], scope: Scope) -> dict[str, Any]:
        ids, model = to_detokenize(body)
        tokenizer = service.fleet.find(model).tokenizer
        check_ids(ids, tokenizer.vocab_size)
        return text_object(tokenizer.decode(ids))

    return posted(answer, service.tokenizing, min(LARGEST, service.body_bytes))
