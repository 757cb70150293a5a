"""Two models have the same vocabulary when each id stands for the same token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cluster.demo
from cluster.core.errors import ModelUnavailable
from cluster.model.vocabulary import difference, vocabulary


def folder(path: Path, vocab: Any, *added: tuple[int, str]) -> Path:
    path.mkdir()
    tokens = [{"id": token, "content": content} for token, content in added]
    parsed = {"model": {"vocab": vocab}, "added_tokens": tokens}
    (path / "tokenizer.json").write_text(json.dumps(parsed))
    return path


def test_the_same_in_whatever_form_and_order(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", {"a": 0, "b": 1}, (2, "<end>"))
    other = folder(tmp_path / "other", [["a", -1.5], ["b", 0.0], ["x", 0.0]], (2, "<end>"))
    assert vocabulary(one) == {0: "a", 1: "b", 2: "<end>"}
    assert difference(one, other) == ""
    assert len(vocabulary(cluster.demo.folder())) == 1536


def test_what_differs_is_named(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", {"a": 0, "b": 1}, (2, "<end>"))
    assert difference(one, folder(tmp_path / "a", {"a": 0, "b": 1})) == "3 tokens against 2"
    swapped = folder(tmp_path / "b", {"a": 1, "b": 0}, (2, "<end>"))
    assert difference(one, swapped) == "token 0 is 'a' against 'b'"
    named = folder(tmp_path / "c", {"a": 0, "b": 1}, (2, "<stop>"))
    assert difference(one, named) == "token 2 is '<end>' against '<stop>'"
    moved = folder(tmp_path / "d", {"a": 0, "b": 1}, (3, "<end>"))
    assert difference(one, moved) == "token 2 is '<end>' against None"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": ["ab", [], {}]}}']
)
def test_a_broken_file(text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="has no tokenizer.json"):
        vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelUnavailable, match="is broken"):
        vocabulary(tmp_path)
