"""A small byte-level BPE tokenizer with a chat template, as a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "You are a helpful assistant. The quick brown fox jumps over the lazy dog.",
    "今天天气很好，我们去公园散步吧。日本語のテキスト。",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 👍🏽 thumbs e\u0301 accent",
]
SPECIAL = ["<|pad|>", "<|start|>", "<|end|>", "<|stop|>"]
TEMPLATE = (
    "{%- for m in messages -%}"
    "{%- if m.role not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('unknown role ' + m.role) }}{%- endif -%}"
    "{%- if loop.index0 > 0 and m.role == 'system' -%}"
    "{{ raise_exception('the system message must come first') }}{%- endif -%}"
    "{{ '<|start|>' + m.role + '\\n' + m.content + '<|end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start|>assistant\\n' }}{%- endif -%}"
)


def make_folder(
    folder: Path,
    *,
    template: str | None = TEMPLATE,
    vocab: int = 400,
    special: Sequence[str] = (),
) -> Path:
    """Write the tokenizer's files; config.json and generation_config.json name end ids too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[*SPECIAL, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": ["<|start|>", "<|stop|>"],
        "model_max_length": 2048,
    }
    if template is not None:
        config["chat_template"] = template
    _write(folder / "tokenizer_config.json", config)
    _write(folder / "config.json", {"model_type": "llama", "eos_token_id": 2})
    _write(folder / "generation_config.json", {"eos_token_id": [2, 3]})
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
