"""A sharded model says what the whole one says: greedy, float32, against plain mlx-lm."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import openai
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

import cluster.demo
from cluster.text.tokenizer import Tokenizer
from tests.e2e.cluster_process import serving

TIE = 1e-4
"""Where the reference's top two logits are closer than this, either may be taken."""
QUESTIONS = ("What is Tandem?", "repeat after me: blue stone river apple", "How do I cancel?")
MODELS = ("demo", "qwen3", "qwen3_moe")


@dataclass(frozen=True)
class Reference:
    """A whole answer of plain mlx-lm."""

    text: str
    certain: str
    """The text up to the first tie; all of it where there is none."""
    ties: int


class Plain:
    """One process, no cluster: mlx-lm's model and a loop."""

    def __init__(self, folder: Path) -> None:
        self.model, _ = load_model(folder)
        self.tokenizer = Tokenizer.load(folder)

    def answer(self, question: str, tokens: int) -> Reference:
        prompt = self.tokenizer.render([{"role": "user", "content": question}])
        cache = make_prompt_cache(self.model)
        fed = mx.array(prompt)[None]
        ids: list[int] = []
        ties: list[int] = []
        for place in range(tokens):
            logits = self.model(fed, cache=cache)[0, -1]
            second, first = mx.sort(logits)[-2:].tolist()  # type: ignore[misc]
            if first - second < TIE:
                ties.append(place)
            token = int(mx.argmax(logits).item())
            if token in self.tokenizer.end_ids:
                break
            ids.append(token)
            fed = mx.array([[token]])
        certain = ids[: ties[0]] if ties else ids
        return Reference(self.tokenizer.decode(ids), self.tokenizer.decode(certain), len(ties))


def same(reference: Reference, text: str) -> bool:
    """Equal, or different only from a tie onwards, which is printed."""
    if text == reference.text:
        return True
    if reference.ties:
        print(f"{reference.ties} ties; from the first one on: {text!r}, {reference.text!r}")
    return bool(reference.ties) and text.startswith(reference.certain.rstrip("\ufffd"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("ranks", "tokens"), [(2, 48), (4, 8)])
def test_ranks_say_what_one_process_says(
    model: str, ranks: int, tokens: int, random_model: Callable[[str], Path]
) -> None:
    folder = cluster.demo.folder() if model == "demo" else random_model(model)
    name = "demo" if model == "demo" else str(folder)
    plain = Plain(folder)
    with serving("--model", name, "--local-ranks", str(ranks)) as server:
        assert server.cluster()["world"] == ranks
        assert len({engine.pid for engine in server.engines()}) == ranks
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=200)
        for question in QUESTIONS[: 3 if ranks == 2 else 1]:
            reference = plain.answer(question, tokens)
            with ThreadPoolExecutor() as pool:  # both at once: half the steps
                whole = pool.submit(ask, client, question, tokens, stream=False)
                streamed = pool.submit(ask, client, question, tokens, stream=True)
            assert same(reference, whole.result())
            assert same(reference, streamed.result())


def ask(client: openai.OpenAI, question: str, tokens: int, *, stream: bool) -> str:
    """The answer through the real client, in one piece or streamed."""
    fields: dict[str, Any] = {
        "model": client.models.list().data[0].id,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": tokens,
    }
    if not stream:
        return client.chat.completions.create(**fields).choices[0].message.content or ""
    chunks = client.chat.completions.create(**fields, stream=True)
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
