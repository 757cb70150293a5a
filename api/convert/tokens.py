"""What /tokenize and /detokenize are asked, and what they answer; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.ask import Ask
from api.convert.fields import checked
from api.convert.openai_chat import OpenAIChat
from api.schema.tokens import DetokenizeRequest, TokenizeRequest
from cluster.core.errors import InvalidRequest, Unsupported
from cluster.text.tokenizer import Tokenizer

_CHAT = ("messages", "tools", "chat_template_kwargs")


def to_tokenize(body: dict[str, Any]) -> tuple[Ask, bool]:
    """What is to be tokenized, as a request that would be answered with its prompt; and whether
    each token's text is wanted. Raises RequestError."""
    asked = checked(TokenizeRequest, body)
    for name in ("add_special", "add_special_tokens"):
        if getattr(asked, name):
            raise Unsupported(f"{name} is not supported by this version of Tandem", param=name)
    given = [name for name in ("content", "prompt", "messages") if getattr(asked, name) is not None]
    if len(given) != 1:
        names = " and ".join(given) or "nothing"
        raise InvalidRequest(
            f"content: one of content, prompt and messages is needed, and there is {names}",
            param="content",
        )
    pieces = bool(asked.with_pieces or asked.return_token_strs)
    if asked.messages is None:
        text = asked.content if asked.prompt is None else asked.prompt
        return Ask(text or "", model=asked.model, prompt_param=given[0]), pieces
    chat = {name: getattr(asked, name) for name in _CHAT}
    return OpenAIChat().read({**chat, "model": asked.model}), pieces


def tokens_object(
    ids: Sequence[int], tokenizer: Tokenizer, context: int, *, pieces: bool
) -> dict[str, Any]:
    """The answer of /tokenize. In `token_strs`, parts of a character show as U+FFFD."""
    made: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": context}
    if pieces:
        made["token_strs"] = [tokenizer.token_bytes(i).decode(errors="replace") for i in ids]
    return made


def to_detokenize(body: dict[str, Any]) -> tuple[list[int], str | None]:
    """The ids, and the model that is asked for. Raises InvalidRequest."""
    asked = checked(DetokenizeRequest, body)
    return asked.tokens, asked.model


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raise InvalidRequest for an id without a token."""
    unknown = next((place for place, i in enumerate(ids) if i >= vocab_size), None)
    if unknown is not None:
        param = f"tokens[{unknown}]"
        raise InvalidRequest(
            f"{param}: this model's token ids are 0 to {vocab_size - 1}", param=param
        )


def text_object(text: str) -> dict[str, Any]:
    """The answer of /detokenize: by vLLM's name and by llama.cpp's."""
    return {"prompt": text, "content": text}
