"""Grammars driven by random choices on the demo model's tokenizer."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import demo
from cluster.core.errors import ProtocolError, StepRefused
from cluster.core.ids import Slot
from cluster.core.plan import Admit
from cluster.core.sampling import Sampling
from cluster.engine.grammar import Grammars
from cluster.text import grammar
from cluster.text.tokenizer import Tokenizer
from tests.unit.engine.schemas import SCHEMAS

VOCAB = 1600
"""More logits than the tokenizer has ids, as in real models."""
LIMIT = 150
END = 2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(demo.folder())


@pytest.fixture
def grammars() -> Iterator[Grammars]:
    made = Grammars(demo.folder(), VOCAB)
    yield made
    made.close()


def admit(
    slot: int, text: str, generated: Sequence[int] = (), ends: tuple[int, ...] = (END,)
) -> Admit:
    return Admit(Slot(slot), 0, Sampling(), generated=tuple(generated), end_ids=ends, grammar=text)


def mask(grammars: Grammars, slot: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    grammars.begin((Slot(slot),))
    allowed = grammars.allowed((Slot(slot),))
    assert allowed is not None and allowed.shape == (1, VOCAB) and allowed.dtype == np.bool_
    return allowed[0]


def random_answer(
    grammars: Grammars, slot: int, seed: int, limit: int = LIMIT
) -> tuple[list[int], bool]:
    """Ids of an answer by random logits, and whether it ended."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    while len(ids) < limit:
        scores = np.where(mask(grammars, slot), rng.random(VOCAB), -1.0)
        token = int(scores.argmax())
        assert scores[token] >= 0
        grammars.note(Slot(slot), token)
        if token == END:
            return ids, True
        ids.append(token)
    return ids, False


def test_random_answers_satisfy_200_schemas(grammars: Grammars, tokenizer: Tokenizer) -> None:
    ended: list[bool] = []

    @given(schema=SCHEMAS, seed=st.integers(0, 1 << 32))
    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    def satisfied(schema: dict[str, Any], seed: int) -> None:
        grammars.admit(admit(1, grammar.json_schema(schema)))
        ids, complete = random_answer(grammars, 1, seed)
        ended.append(complete)
        if complete:
            value = json.loads(tokenizer.decode(ids), parse_float=Decimal)
            jsonschema.validate(value, schema)

    satisfied()
    assert len(ended) >= 200
    assert sum(ended) > 0.7 * len(ended)


@pytest.mark.parametrize(
    "pattern",
    [
        r"[a-z ]{3,40}", r"^\d{4}-\d{2}-\d{2}$", r"(foo|bar)+baz?", r'a/b"c\\d', r"[日本]{2}x*",
        r"(?i)yes|no", r"\w{1,8}@\w{1,8}\.(com|org)", r"a\nb|a\tb",
    ],
)  # fmt: skip
def test_random_answers_match_a_regex(
    grammars: Grammars, tokenizer: Tokenizer, pattern: str
) -> None:
    complete = 0
    for seed in range(8):
        grammars.admit(admit(1, grammar.regex(pattern)))
        ids, ended = random_answer(grammars, 1, seed)
        if ended:
            complete += 1
            assert re.fullmatch(pattern, tokenizer.decode(ids))
    assert complete > 0


SUMS = """
start: sum
sum: product ("+" product)*
product: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,3}/
"""


def test_random_answers_are_derived_by_a_lark_grammar(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    complete = 0
    for seed in range(20):
        grammars.admit(admit(1, grammar.lark(SUMS)))
        ids, ended = random_answer(grammars, 1, seed)
        if ended:
            complete += 1
            text = tokenizer.decode(ids)
            assert re.fullmatch(r"[0-9+()]+", text)
            assert isinstance(eval(re.sub(r"\b0+(?=\d)", "", text), {}), int)
    assert complete > 5


def test_one_of_some_choices(grammars: Grammars, tokenizer: Tokenizer) -> None:
    texts = ["yes", "no", 'per"haps\\', "日本 \n"]
    seen = set()
    for seed in range(40):
        grammars.admit(admit(1, grammar.choice(texts)))
        ids, ended = random_answer(grammars, 1, seed)
        assert ended
        seen.add(tokenizer.decode(ids))
    assert seen == set(texts)


def test_a_tool_call(grammars: Grammars, tokenizer: Tokenizer) -> None:
    parameters = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"],
                  "additionalProperties": False, "$defs": {"n": {"enum": [1, 2]}}}  # fmt: skip
    text = grammar.tool_call(
        {"f": parameters, "g": {"type": "object", "additionalProperties": False}},
        tokenizer.call_syntax,
        tokenizer.special_names,
    )
    seen = set()
    for seed in range(30):
        grammars.admit(admit(1, text))
        ids, ended = random_answer(grammars, 1, seed)
        assert ended
        assert tokenizer.token_bytes(ids[0]) == b"<tool_call>"
        assert tokenizer.token_bytes(ids[-1]) == b"</tool_call>"
        call = json.loads(tokenizer.decode(ids))
        assert call["arguments"] in ([{"a": 1}, {"a": 2}] if call["name"] == "f" else [{}])
        seen.add(call["name"])
    assert seen == {"f", "g"}


@given(schema=SCHEMAS, seed=st.integers(0, 1 << 32), cut=st.integers(0, 40))
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_a_replay_goes_on_where_the_answer_was(
    grammars: Grammars, schema: dict[str, Any], seed: int, cut: int
) -> None:
    text = grammar.json_schema(schema)
    grammars.admit(admit(1, text))
    ids, _ = random_answer(grammars, 1, seed)
    grammars.admit(admit(1, text))
    for token in ids[:cut]:
        mask(grammars, 1)
        grammars.note(Slot(1), token)
    grammars.admit(admit(2, text, generated=ids[:cut]))
    np.testing.assert_array_equal(mask(grammars, 1), mask(grammars, 2))


def test_only_the_end_ids_of_the_request_follow_a_complete_answer(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    grammars.admit(admit(1, grammar.regex("ab?"), ends=(0, 1)))
    (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
    assert not mask(grammars, 1)[[0, 1, END]].any()
    grammars.note(Slot(1), a)
    assert set(np.flatnonzero(mask(grammars, 1))) == {0, 1, b}
    grammars.note(Slot(1), b)
    assert set(np.flatnonzero(mask(grammars, 1))) == {0, 1}
    grammars.note(Slot(1), 1)
    assert set(np.flatnonzero(mask(grammars, 1))) == {0, 1}
    grammars.note(Slot(1), 0)
    with pytest.raises(ProtocolError, match="doesn't allow"):
        grammars.note(Slot(1), a)


def test_without_end_ids_anything_follows_a_complete_answer(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    grammars.admit(admit(1, grammar.regex("a"), ends=()))
    mask(grammars, 1)
    grammars.note(Slot(1), tokenizer.encode("a")[0])
    assert mask(grammars, 1).all()
    grammars.note(Slot(1), 77)


def test_an_id_that_was_not_allowed_ends_the_epoch(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    grammars.admit(admit(1, grammar.regex("abc")))
    mask(grammars, 1)
    with pytest.raises(ProtocolError, match="slot 1 sampled"):
        grammars.note(Slot(1), tokenizer.encode("z")[0])
    grammars.admit(admit(1, grammar.regex("abc")))
    mask(grammars, 1)
    with pytest.raises(ProtocolError):
        grammars.note(Slot(1), END)


def test_rows_with_and_without_a_grammar(grammars: Grammars, tokenizer: Tokenizer) -> None:
    a, b, c = (Slot(n) for n in (1, 2, 3))
    grammars.admit(admit(1, grammar.regex("x")))
    grammars.admit(admit(2, ""))
    grammars.admit(admit(3, grammar.regex("y")))
    assert (a in grammars, b in grammars, c in grammars) == (True, False, True)
    x, y = tokenizer.encode("x")[0], tokenizer.encode("y")[0]
    for slots in [(a, b, c), (c, b, a), (b, b, a), (a, c)]:
        grammars.begin(slots)
        allowed = grammars.allowed(slots)
        assert allowed is not None
        for row, slot in zip(allowed, slots, strict=True):
            wanted = {a: {x}, c: {y}}.get(slot, set(range(VOCAB)))
            assert set(np.flatnonzero(row)) == wanted
    grammars.begin((a, c))
    allowed = grammars.allowed((c, b, a))
    assert allowed is not None and allowed[0, y] and allowed[2, x]
    grammars.begin((b,))
    assert grammars.allowed((b,)) is None
    grammars.drop(a)
    grammars.drop(a)
    grammars.admit(admit(3, ""))
    assert grammars.allowed((a, b, c)) is None


def test_masks_that_nobody_began_are_computed_when_asked_for(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    x = tokenizer.encode("x")[0]
    grammars.admit(admit(1, grammar.regex("x")))
    allowed = grammars.allowed((Slot(1),))
    assert allowed is not None and set(np.flatnonzero(allowed[0])) == {x}
    grammars.note(Slot(1), x)
    allowed = grammars.allowed((Slot(1),))
    assert allowed is not None and set(np.flatnonzero(allowed[0])) == {END}


def test_a_grammar_that_does_not_compile_is_refused_by_name(grammars: Grammars) -> None:
    grammars.admit(admit(4, "start: missing"))
    with pytest.raises(StepRefused, match="slot 4: its grammar can't be compiled.*missing"):
        grammars.allowed((Slot(4),))
    grammars.admit(admit(5, grammar.regex("abc"), generated=(77,)))
    with pytest.raises(StepRefused, match="slot 5: id 77, the 1"):
        grammars.allowed((Slot(5),))


def test_a_folder_without_a_tokenizer_is_told_at_the_first_mask(tmp_path: Path) -> None:
    made = Grammars(tmp_path, VOCAB)
    made.admit(admit(1, grammar.regex("x")))
    with pytest.raises(StepRefused, match="tokenizer"):
        made.allowed((Slot(1),))
    made.close()


def test_fewer_logits_than_ids(tokenizer: Tokenizer) -> None:
    made = Grammars(demo.folder(), 1000)
    made.admit(admit(1, grammar.regex("[a-z]+")))
    allowed = made.allowed((Slot(1),))
    assert allowed is not None and allowed.shape == (1, 1000) and allowed.any()
    made.close()


def test_close_ends_the_threads() -> None:
    before = set(threading.enumerate())
    made = Grammars(demo.folder(), VOCAB)
    made.admit(admit(1, grammar.json_object()))
    made.allowed((Slot(1),))
    mine = set(threading.enumerate()) - before
    assert len(mine) == 2
    made.close()
    made.close()
    for thread in mine:
        thread.join(10)
        assert not thread.is_alive()
