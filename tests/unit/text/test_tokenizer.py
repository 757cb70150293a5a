from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.core.errors import InvalidRequest, ModelUnavailable
from cluster.text.tokenizer import Tokenizer
from tests.unit.text.bpe import CORPUS, make_folder


def test_end_ids_come_from_every_place_that_names_them(tokenizer: Tokenizer) -> None:
    assert tokenizer.end_ids == {2, 3}


def test_end_ids_of_a_nested_config(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "text_config": {"eos_token_id": [0]}})
    )
    assert Tokenizer.load(folder).end_ids == {0, 2, 3}


def test_a_text_survives(tokenizer: Tokenizer) -> None:
    for text in CORPUS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|start|>ab<|end|>")
    assert ids[0] == 1
    assert ids[-1] == 2
    assert tokenizer.decode(ids) == "ab"


def test_render_applies_the_template(tokenizer: Tokenizer) -> None:
    rendered = tokenizer.render([{"role": "user", "content": "Hello"}])
    assert rendered == tokenizer.encode("<|start|>user\nHello<|end|>\n<|start|>assistant\n")


def test_render_flattens_text_parts(tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert tokenizer.render([{"role": "user", "content": parts}]) == tokenizer.render(
        [{"role": "user", "content": "Hello"}]
    )


def test_render_takes_no_content_for_an_empty_text(tokenizer: Tokenizer) -> None:
    turn = {"role": "user", "content": "a"}
    assert tokenizer.render([turn, {"role": "assistant", "content": None}]) == tokenizer.render(
        [turn, {"role": "assistant", "content": ""}]
    )


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "narrator", "content": "once"}],
        [{"role": "user", "content": "a"}, {"role": "narrator", "content": "b"}],
        [{"role": "user", "content": "half a pair \ud83d"}],
    ],
)
def test_messages_that_the_template_refuses(
    tokenizer: Tokenizer, messages: list[dict[str, str]]
) -> None:
    with pytest.raises(InvalidRequest, match="chat template refuses") as caught:
        tokenizer.render(messages)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("template", ["{{ messages[7].content }}", "{{ messages + 1 }}", "{% if"])
def test_a_template_that_fails_is_the_requests_error(tmp_path: Path, template: str) -> None:
    tokenizer = Tokenizer.load(make_folder(tmp_path, template=template))
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.render([{"role": "user", "content": "a"}])
    assert caught.value.param == "messages"


def test_no_template(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(make_folder(tmp_path, template=None))
    with pytest.raises(InvalidRequest, match="no chat template") as caught:
        tokenizer.render([{"role": "user", "content": "a"}])
    assert caught.value.param == "messages"


def test_a_long_text_is_not_truncated(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("fox dog " * 4000)) > 2048


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="tokenizer"):
        Tokenizer.load(tmp_path / "missing")
    folder = make_folder(tmp_path / "broken")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelUnavailable, match="tokenizer"):
        Tokenizer.load(folder)
