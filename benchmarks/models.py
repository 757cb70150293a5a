"""The models that contestants are compared on: folders in mlx format that never end an answer.

Answers must be equally long everywhere, and not every contestant can be told to ignore the end
of a turn. So the end id is one that these models never choose: every contestant decodes up to
max_tokens, without an option and without a bias that would cost time.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.tokenizer_utils import load as load_tokenizer

import cluster.demo
from tests.e2e.random_models import TOKENIZER_FILES, make

END, END_TEXT = 0, "<|endoftext|>"
EDIT_EVERY = 24
"""Tokens between two edits in the text that repeats its prompt."""
EDIT_TOKENS = 480


@dataclass(frozen=True, slots=True)
class Lengths:
    """How much is asked for, in tokens."""

    decode: int
    """Of one stream."""
    batch: int
    """Of each of several streams."""
    prompt: int
    """Of a long prompt, about."""
    edit: int
    """Of the answer that repeats its prompt; at most EDIT_TOKENS."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One model to compare on."""

    name: str
    folder: Path
    edit_folder: Path
    """The same shape, with weights that write the prompt again, edited."""
    edit_prompt: str
    right_folder: Path
    """A draft model for the edit model: its first layer alone, which says the same."""
    wrong_folder: Path
    """One that is as large and never right."""
    kv_bytes: int
    """Of one position's cache, over all ranks; both models are float32."""
    lengths: Lengths


LENGTHS = {
    "demo": Lengths(decode=1000, batch=400, prompt=6000, edit=EDIT_TOKENS),
    "llama_30m": Lengths(decode=256, batch=128, prompt=2900, edit=EDIT_TOKENS),
}
QUICK = Lengths(decode=64, batch=16, prompt=500, edit=96)


def prepare(name: str, folder: Path, *, quick: bool) -> Subject:
    """Write the models of `name`, a key of LENGTHS, below `folder`."""
    plain = folder / name
    if name == "demo":
        plain.mkdir(parents=True)
        for file in (*TOKENIZER_FILES, "config.json", "model.safetensors"):
            shutil.copy(cluster.demo.folder() / file, plain / file)
    else:
        make(name, plain)
        _silence_specials(plain)
    _edit_json(plain / "config.json", eos_token_id=END)
    _edit_json(plain / "tokenizer_config.json", eos_token=END_TEXT)
    edit = folder / f"{name}_edit"
    prompt = _make_edit(plain, edit)
    right, wrong = (_make_draft(edit, folder / f"{name}_{kind}") for kind in ("right", "wrong"))
    _never_right(wrong)
    lengths = QUICK if quick else LENGTHS[name]
    return Subject(name, plain, edit, prompt, right, wrong, _kv_bytes(plain), lengths)


def _kv_bytes(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    heads = int(config["num_key_value_heads"]) * int(config["head_dim"])
    return 2 * 4 * heads * int(config["num_hidden_layers"])


def _silence_specials(folder: Path) -> None:
    """Make the logits of special tokens 0, in a random model with tied embeddings: others are
    higher. The end is one of them; servers hold text back at the marks of tool calls."""
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    path = str(folder / "model.safetensors")
    weights = _weights(path)
    embedding = weights["model.embed_tokens.weight"]
    embedding[mx.array([token["id"] for token in added])] = 0
    mx.eval(weights)
    mx.save_safetensors(path, weights, metadata={"format": "mlx"})


def _make_edit(source: Path, folder: Path) -> str:
    """Write a model of the shape of `source` that repeats the prompt that is returned, with
    another word in every EDIT_EVERY: what a model does with code that it is asked to change.

    Its layers compute as much as any, and add nothing: o_proj and down_proj are zero. The head's
    row for a token is the embedding of the token before it in the answer. So the next token is a
    function of the last one, and all tokens of the answer are different.
    """
    shutil.copytree(source, folder)
    _edit_json(folder / "config.json", tie_word_embeddings=False)
    tokenizer: Any = load_tokenizer(source)
    words = [_one_word(tokenizer, token) for token in range(tokenizer.vocab_size)]
    single = [(token, word) for token, word in enumerate(words) if word]
    edits = EDIT_TOKENS // EDIT_EVERY
    if len(single) < EDIT_TOKENS + edits:
        raise ValueError(f"{source}: only {len(single)} words of one token each")
    answer, old = single[:EDIT_TOKENS], single[EDIT_TOKENS : EDIT_TOKENS + edits]
    asked = list(answer)
    asked[EDIT_EVERY // 2 :: EDIT_EVERY] = old
    prompt = "".join(word for _, word in asked) + "."
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True
    )
    text = ",".join(map(str, ids))
    if ",".join(str(token) for token, _ in asked) not in text:
        raise ValueError(f"{source}: the words of the prompt are not one token each")
    _write_successors(folder, [ids[-1], *(token for token, _ in answer)])
    return prompt


def _make_draft(edit: Path, folder: Path) -> Path:
    """Write the first layer of the edit model, whose layers add nothing, as a model."""
    shutil.copytree(edit, folder)
    _edit_json(folder / "config.json", num_hidden_layers=1)
    path = str(folder / "model.safetensors")
    kept = {
        name: weight
        for name, weight in _weights(path).items()
        if ".layers." not in name or ".layers.0." in name
    }
    mx.save_safetensors(path, kept, metadata={"format": "mlx"})
    return folder


def _never_right(folder: Path) -> None:
    """Make it take each token for the one before, by its id."""
    path = str(folder / "model.safetensors")
    weights = _weights(path)
    weights["lm_head.weight"] = mx.roll(weights["lm_head.weight"], -1, axis=0)
    mx.eval(weights)
    mx.save_safetensors(path, weights, metadata={"format": "mlx"})


def _one_word(tokenizer: Any, token: int) -> str:
    """The text of `token` when it is a whole word with its space, else ""."""
    text: str = tokenizer.decode([token])
    whole = text[:-1].isalpha() and text[:-1].isascii() and text.endswith(" ")
    return text if whole and tokenizer.encode(text) == [token] else ""


def _write_successors(folder: Path, chain: list[int]) -> None:
    """Weights with which each token of `chain` is followed by the next."""
    path = str(folder / "model.safetensors")
    weights = _weights(path)
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = mx.zeros_like(weight)
    embedding = weights["model.embed_tokens.weight"]
    embedding = mx.random.normal(embedding.shape, key=mx.random.key(0))
    head = mx.zeros_like(embedding)
    head[mx.array(chain[1:])] = embedding[mx.array(chain[:-1])]
    weights["model.embed_tokens.weight"] = embedding
    weights["lm_head.weight"] = head
    weights["model.norm.weight"] = mx.ones_like(weights["model.norm.weight"])
    mx.eval(weights)
    mx.save_safetensors(path, weights, metadata={"format": "mlx"})


def _weights(path: str) -> dict[str, mx.array]:
    loaded: Any = mx.load(path)
    weights: dict[str, mx.array] = dict(loaded)
    mx.eval(weights)  # before the file is written again
    return weights


def _edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}, indent=2))
