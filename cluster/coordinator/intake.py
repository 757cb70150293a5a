"""What a client orders, as the request that is computed for it."""

from __future__ import annotations

from cluster.core.config import Limits
from cluster.core.errors import InvalidRequest, PromptTooLong
from cluster.core.ids import new_request_id
from cluster.core.request import Order, Request
from cluster.core.view import ServedModel
from cluster.text.tokenizer import Tokenizer


def request_of(
    order: Order,
    model: ServedModel,
    limits: Limits,
    tokenizer: Tokenizer,
    now: float,
    prefix: str,
) -> Request:
    """The request, whose id begins with `prefix`. Raises PromptTooLong or InvalidRequest."""
    fitting = limits.kv_tokens - limits.slot_positions
    context = min(model.context, fitting)
    room = context - len(order.prompt)
    if room <= 0:
        size = limits.position_bytes if context == fitting else 0
        raise PromptTooLong(len(order.prompt), context, position_bytes=size)
    if not order.prompt:
        raise InvalidRequest("the prompt has no tokens", param="messages")
    max_tokens = room if order.max_tokens is None else min(order.max_tokens, room)
    # What a grammar allows once it is complete is an end id, and nothing after it.
    endless = order.ignore_eos and not order.grammar
    return Request(
        id=new_request_id(prefix),
        prompt=order.prompt,
        max_tokens=max_tokens,
        sampling=order.sampling,
        end_ids=frozenset() if endless else tokenizer.end_ids,
        scope=order.scope,
        deadline=now + limits.request_seconds,
        min_tokens=min(order.min_tokens, max_tokens),
        logprobs=order.logprobs,
        grammar=order.grammar,
        draft=limits.draft,
        cache=order.cache,
    )
