"""Constrained rows in the step loop, beside others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from cluster import demo
from cluster.core.sampling import Sampling
from cluster.text import grammar
from cluster.text.tokenizer import Tokenizer
from tests.unit.engine.driver import Plan, Running, texts

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"type": "integer", "minimum": 10, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "bc"]}, "maxItems": 3},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}
END = 2
STEPS = 12
ITERATIONS = 5
JSON = grammar.json_schema(SCHEMA)
DIGITS = grammar.regex(r"\d{4}(-\d{2}){2}")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(demo.folder())


@pytest.fixture(scope="module")
def prompt(tokenizer: Tokenizer) -> tuple[int, ...]:
    return tokenizer.render([{"role": "user", "content": "Tell me of a city."}])


@pytest.fixture
def engine() -> Iterator[Running]:
    running = Running(demo.folder(), grammars=True)
    yield running
    running.close()


def run(engine: Running, prompt: tuple[int, ...], asked: dict[int, tuple[str, Sampling]]) -> Any:
    """Ids of each slot: all begin together and are decoded together."""
    plan = Plan()
    for slot, (text, sampling) in asked.items():
        end_ids = (END,) if text else ()
        plan.prefill(slot, prompt, sampling=sampling, admit={"grammar": text, "end_ids": end_ids})
    for _ in range(STEPS):
        plan.decode(*asked, iterations=ITERATIONS)
    return texts(plan.steps, engine.run(plan.steps))


def said(ids: list[int]) -> list[int]:
    assert END in ids
    return ids[: ids.index(END)]


def test_rows_conform_and_others_are_as_without_them(
    engine: Running, tokenizer: Tokenizer, prompt: tuple[int, ...]
) -> None:
    free = Sampling(temperature=1.0, seed=3)
    asked = {
        1: (JSON, Sampling(temperature=1.5, seed=1)),
        2: ("", free),
        3: (DIGITS, Sampling(temperature=0.0)),
        4: (JSON, Sampling(temperature=0.8, seed=5, top_k=3, top_p=0.5, repetition_penalty=1.3)),
    }
    ids = run(engine, prompt, asked)
    for slot in (1, 4):
        jsonschema.validate(json.loads(tokenizer.decode(said(ids[slot]))), SCHEMA)
    assert len(tokenizer.decode(said(ids[3]))) == len("2024-01-31")
    engine.close()
    again = Running(demo.folder(), grammars=True)
    try:
        alone = run(again, prompt, {2: ("", free)})
        assert alone[2] == ids[2]
    finally:
        again.close()


def test_a_replay_goes_on_as_if_nothing_had_happened(
    engine: Running, prompt: tuple[int, ...]
) -> None:
    sampling = Sampling(temperature=1.0, seed=9)
    whole = said(run(engine, prompt, {1: (JSON, sampling)})[1])
    cut = len(whole) // 2
    engine.close()
    again = Running(demo.folder(), grammars=True)
    try:
        plan = Plan()
        fields = {"grammar": JSON, "end_ids": (END,), "generated": tuple(whole[:cut])}
        plan.prefill(1, (*prompt, *whole[:cut]), sampling=sampling, admit=fields)
        for _ in range(STEPS):
            plan.decode(1, iterations=ITERATIONS)
        rest = texts(plan.steps, again.run(plan.steps))[1]
        assert said(rest) == whole[cut:]
    finally:
        again.close()


def test_a_reset_drops_grammars(engine: Running, prompt: tuple[int, ...]) -> None:
    asked = {0: (JSON, Sampling(seed=3)), 1: ("", Sampling(seed=4))}
    expected = run(engine, prompt, asked)
    engine.loop.reset(None)
    half = Plan()
    half.prefill(0, prompt, sampling=Sampling(seed=9), admit={"grammar": DIGITS})
    half.decode(0, iterations=2)
    for step in half.steps:
        engine.loop.submit(step)
    engine.loop.reset(None)
    assert run(engine, prompt, asked) == expected
    engine.loop.reset(None)
    plain = {1: ("", Sampling(seed=5))}
    assert len(run(engine, prompt, plain)[1]) == 1 + STEPS * ITERATIONS
    assert engine.executor._grammars._guides == {}
