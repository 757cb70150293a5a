"""The tokenizer of the model that ships with Tandem."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import cluster.demo
from cluster.text.stream import TextStream
from cluster.text.tokenizer import Tokenizer

DEMO = Tokenizer.load(cluster.demo.folder())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=40))
def test_any_text_survives_piece_by_piece(text: str) -> None:
    stream = TextStream(DEMO)
    parts = [stream.push(token) for token in DEMO.encode(text) if token not in DEMO.special_ids]
    assert "".join([*parts, stream.finish()]) == DEMO.decode(DEMO.encode(text))
    assert "\ufffd" not in "".join(parts)


def test_its_template_renders_and_its_answers_end() -> None:
    ids = DEMO.render([{"role": "user", "content": "What is Tandem?"}])
    assert len(ids) > 5
    assert DEMO.end_ids
    assert all(token < DEMO.vocab_size for token in [*ids, *DEMO.end_ids])
