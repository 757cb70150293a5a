"""From the core request to what the coordinator is to do; pure, but it compiles grammars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from api.ask import Ask, Chat
from api.convert.calls import forced_call
from api.convert.form import AnswerFormat, to_format
from api.convert.recall import Recall
from cluster.core.errors import InvalidRequest, Unsupported
from cluster.core.request import Order
from cluster.core.sampling import Sampling
from cluster.core.timeline import Timeline
from cluster.text.answer import AnswerParser
from cluster.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request of which everything is checked that needs no state of the coordinator."""

    ask: Ask
    orders: tuple[Order, ...]
    """One for each answer. Answer i has the seed plus i: it is what a request with that seed
    and one answer would get."""
    form: AnswerFormat
    parser: Callable[[], AnswerParser] | None
    """Makes what tells reasoning and calls from text; None where all is text."""
    timeline: Timeline | None = None
    """What happens to it is noted there, by its orders too; None for one that is not traced."""

    def traced(self, timeline: Timeline) -> Prepared:
        """The same, traced."""
        orders = tuple(replace(order, timeline=timeline) for order in self.orders)
        return replace(self, orders=orders, timeline=timeline)


def prepare(
    ask: Ask, tokenizer: Tokenizer, recall: Recall, *, owner: str, scope: str, fresh_seed: int
) -> Prepared:
    """Render, tokenize and compile; `fresh_seed` is for a request that names none, `owner` whose
    calls `recall` may look up, `scope` whose prefixes may be reused.

    Raises InvalidRequest when the chat template refuses the messages, a logit_bias names a token
    that does not exist, or parameters contradict each other, and what `to_format` and
    `forced_call` raise.
    """
    if ask.max_tokens is not None and ask.min_tokens > ask.max_tokens:
        raise InvalidRequest(
            f"min_tokens: {ask.min_tokens} is more than the {ask.max_tokens} tokens that the "
            "answer may have",
            param="min_tokens",
        )
    chat = ask.prompt if isinstance(ask.prompt, Chat) else None
    form, prompt = render(ask, tokenizer, recall, owner=owner)
    order = Order(
        prompt=prompt,
        sampling=replace(
            ask.sampling, logit_bias=_logit_bias(ask.logit_bias, tokenizer.vocab_size)
        ),
        max_tokens=ask.max_tokens,
        stop=() if form.call else ask.stop,
        min_tokens=ask.min_tokens,
        ignore_eos=ask.ignore_eos,
        logprobs=ask.logprobs,
        grammar=form.grammar,
        scope=scope,
        markers=chat is not None,
        cache=ask.cache,
        record_steps=ask.record_steps,
    )
    seed = fresh_seed if ask.seed is None else ask.seed
    parser = _parser(chat, form, prompt, tokenizer)
    return Prepared(ask, _with_seeds(order, seed, ask.n), form, parser)


def render(
    ask: Ask, tokenizer: Tokenizer, recall: Recall, *, owner: str
) -> tuple[AnswerFormat, tuple[int, ...]]:
    """The answer's form and the prompt's ids, which depend on it; raises what `prepare` does."""
    chat = ask.prompt if isinstance(ask.prompt, Chat) else None
    form = chat and forced_call(chat, tokenizer)
    form = form or to_format(ask.wish, tokenizer)
    return form, _prompt(ask, form, tokenizer, recall, owner)


def _prompt(
    ask: Ask, form: AnswerFormat, tokenizer: Tokenizer, recall: Recall, owner: str
) -> tuple[int, ...]:
    match ask.prompt:
        case Chat() as chat:
            # A grammar leaves no room for reasoning.
            thinking = False if form.constrained and chat.thinking is None else chat.thinking
            prompt = tokenizer.render(
                chat.messages,
                tools=chat.tools if chat.choice != "none" else None,
                thinking=thinking,
                spoken=recall.spoken(owner, chat.messages),
            )
            return prompt + _begun(chat.prefill, prompt, tokenizer)
        case str() as text:
            return tokenizer.encode(text)
        case ids:
            unknown = next((i for i in ids if not 0 <= i < tokenizer.vocab_size), None)
            if unknown is not None:
                raise InvalidRequest(
                    f"{ask.prompt_param}: {unknown} is no token id of this model, which has 0 to "
                    f"{tokenizer.vocab_size - 1}",
                    param=ask.prompt_param,
                )
            return ids


def _begun(prefill: str, prompt: tuple[int, ...], tokenizer: Tokenizer) -> tuple[int, ...]:
    """What of the answer is said already: by itself, as the model would have sampled it."""
    if not prefill:
        return ()
    if tokenizer.thinks(prompt):
        raise Unsupported(
            "messages: this model's answers begin with reasoning, and can't be begun for it: let "
            "the last turn be the user's",
            param="messages",
        )
    return tokenizer.encode(prefill)


def _parser(
    chat: Chat | None, form: AnswerFormat, prompt: tuple[int, ...], tokenizer: Tokenizer
) -> Callable[[], AnswerParser] | None:
    if chat is None or (form.constrained and not form.call):
        return None
    notation = tokenizer.notation
    tools = chat.tools if chat.choice != "none" else ()
    if not (tools or notation.think_start or notation.layout):
        return None
    thinking = not form.constrained and tokenizer.thinks(prompt)
    return lambda: AnswerParser(notation, tools=tools, thinking=thinking, forced=form.call)


def _with_seeds(order: Order, seed: int, count: int) -> tuple[Order, ...]:
    def seeded(sampling: Sampling, index: int) -> Sampling:
        return replace(sampling, seed=(seed + index) % (1 << 64))

    return tuple(replace(order, sampling=seeded(order.sampling, i)) for i in range(count))


def _logit_bias(asked: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for name, value in asked.items():
        if not (name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < vocab_size):
            raise InvalidRequest(
                f"logit_bias: {name[:40]!r} is no token id of this model, which has 0 to "
                f"{vocab_size - 1}",
                param="logit_bias",
            )
        bias[int(name)] = value
    return bias
