#!/usr/bin/env python3
"""Trains the demo model: a tokenizer and a tiny llama, from the texts in scripts/demo_data.

The same options give the same bytes on the same kind of machine with the same number of cores:
everything random comes from --seed, and no clock takes part. On Linux, run it with
LD_PRELOAD=libopenblas.so.0; MLX's own CPU matrix product is more than ten times slower there.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from demo_data.conversations import ACCENTED, EMOJI, HERE, Message, Sampler, read_corpus
from demo_data.copy_heads import plant

TARGET = Path(__file__).resolve().parent.parent / "cluster" / "demo"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>")
CLOSING = ("</tool_response>",)
VOCABULARY = 1536
# A space goes with the word before it, so that a text has the same tokens at the start of an
# answer as after "Repeat after me: "; digits stand alone.
WORD = r"\p{L}+ ?|\p{N} ?|[^\s\p{L}\p{N}]+ ?|\s+"
FOREIGN = ACCENTED + EMOJI + "жшд中文日本"
SIZE_LIMIT = 8_000_000  # bytes of weights

ARCHITECTURE = ModelArgs(
    model_type="llama",
    hidden_size=192,
    num_hidden_layers=4,
    intermediate_size=392,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=64,
    rms_norm_eps=1e-5,
    vocab_size=VOCABULARY,
    max_position_embeddings=8192,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)


@dataclass(frozen=True)
class Shape:
    """One shape of batch: length in tokens, share of the steps, longest copy in words."""

    tokens: int
    share: float
    copy_words: int


SHAPES = (
    Shape(tokens=96, share=0.56, copy_words=16),
    Shape(tokens=192, share=0.28, copy_words=45),
    Shape(tokens=448, share=0.16, copy_words=64),
)


def train_tokenizer(sampler: Sampler, folder: Path) -> None:
    """Learns a byte-level BPE from sampled conversations and writes the tokenizer's files."""
    texts = [answer.text for answer in sampler.corpus.answers] * 8
    texts += [q for answer in sampler.corpus.answers for q in answer.questions + answer.patterned]
    texts += [" ".join(sampler.corpus.words) + " "] * 30
    texts += [" ".join(ACCENTED + EMOJI) + " "] * 60
    for _ in range(600):
        texts += [m["content"] for m in sampler.conversation(300, 20)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    added += [AddedToken(token, special=False, normalized=False) for token in MARKERS + CLOSING]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": ARCHITECTURE.max_position_embeddings,
    }
    _write_json(folder / "tokenizer_config.json", config)
    shutil.copyfile(HERE / "chat_template.jinja", folder / "chat_template.jinja")


def write_configs(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes config.json and generation_config.json."""
    ids = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }
    architecture = {key: value for key, value in asdict(ARCHITECTURE).items() if value is not None}
    del architecture["layer_types"]
    config = {"architectures": ["LlamaForCausalLM"], **architecture, **ids}
    config |= {"hidden_act": "silu", "torch_dtype": "float32"}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {**ids, "do_sample": False})


class Encoder:
    """Turns conversations into token ids and marks what the assistant says."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        (self._end,) = tokenizer.encode("<|im_end|>")
        self._turn: list[int] = tokenizer.encode("<|im_start|>assistant\n")

    def encode(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        """Token ids, and for each whether an assistant's turn (its end included) holds it."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        ids: list[int] = self.tokenizer.encode(text)
        spoken = [False] * len(ids)
        speaking = False
        for i, token in enumerate(ids):
            spoken[i] = speaking
            if token == self._end:
                speaking = False
            elif ids[max(0, i + 1 - len(self._turn)) : i + 1] == self._turn:
                speaking = True
        return ids, spoken


def batches(
    sampler: Sampler, encoder: Encoder, steps: int, budget: int
) -> Iterator[tuple[mx.array, mx.array]]:
    """Yields ids and mask, both [budget // T, T]; a row is one conversation, cut at T tokens."""
    for _ in range(steps):
        shape = sampler.rng.choices(SHAPES, weights=[s.share for s in SHAPES])[0]
        rows: list[list[int]] = []
        masks: list[list[bool]] = []
        while len(rows) < budget // shape.tokens:
            ids, spoken = encoder.encode(sampler.conversation(5 * shape.tokens, shape.copy_words))
            if len(ids) >= shape.tokens and any(spoken[: shape.tokens]):
                rows.append(ids[: shape.tokens])
                masks.append(spoken[: shape.tokens])
        yield mx.array(rows), mx.array(masks)


def loss_of(model: Model, ids: mx.array, mask: mx.array) -> mx.array:
    """Mean cross entropy in nats over the assistant's tokens; ids and mask are [B, T]."""
    losses = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
    spoken = mask[:, 1:]
    return (losses * spoken).sum() / spoken.sum()


def train(sampler: Sampler, encoder: Encoder, steps: int, budget: int, rate: float) -> Model:
    """Trains a fresh model with AdamW: a short warm-up, then a rate that falls to zero."""
    model = Model(ARCHITECTURE)
    plant(model)
    warm_up = min(50, steps // 4 + 1)
    schedule = optim.join_schedules(
        [
            optim.linear_schedule(0.0, rate, warm_up),
            optim.linear_schedule(rate, 0.0, max(1, steps - warm_up)),
        ],
        [warm_up],
    )
    optimizer = optim.AdamW(schedule, betas=[0.9, 0.98], weight_decay=0.05, bias_correction=True)
    step_of = value_and_grad(model, loss_of)
    started = time.monotonic()
    recent: list[float] = []
    for step, (ids, mask) in enumerate(batches(sampler, encoder, steps, budget), start=1):
        loss, gradients = step_of(model, ids, mask)
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)  # type: ignore[no-untyped-call]
        optimizer.update(model, gradients)
        mx.eval(loss, model.parameters(), optimizer.state)
        recent.append(float(loss.item()))
        if step % 50 == 0 or step == steps:
            mean = sum(recent) / len(recent)
            seconds = time.monotonic() - started
            print(f"step {step:5d}/{steps}  loss {mean:.4f}  {seconds:6.1f} s", flush=True)
            recent.clear()
    return model


def exact(model: Model, encoder: Encoder, conversations: list[list[Message]]) -> float:
    """The share of conversations whose last answer greedy decoding gives word for word.

    Decided in one forward pass each: greedy decoding gives the answer if and only if each of its
    tokens (the end included) is the most likely one after those before it.
    """
    right = 0
    for messages in conversations:
        ids, spoken = encoder.encode(messages)
        end = len(ids) - spoken[::-1].index(True)
        begin = end - spoken[end - 1 :: -1].index(False)
        chosen = mx.argmax(model(mx.array([ids]))[0], axis=-1)
        right += bool(mx.all(chosen[begin - 1 : end - 1] == mx.array(ids[begin:end])).item())
    return right / len(conversations)


def examine(model: Model, encoder: Encoder, sampler: Sampler) -> None:
    """Prints the held-out figures: unseen questions, and copies of unseen word sequences."""
    corpus = sampler.corpus

    def ask(question: str, answer: str) -> list[Message]:
        return [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]

    asked = [ask(q, a.text) for a in corpus.answers for q in a.questions + a.patterned]
    held_out = [ask(q, a.text) for a in corpus.answers for q in a.held_out]
    print(f"questions seen:      {exact(model, encoder, asked):6.1%} of {len(asked)}")
    print(f"questions held out:  {exact(model, encoder, held_out):6.1%} of {len(held_out)}")
    shifted = [asked[7 * i % len(asked)] + turn for i, turn in enumerate(held_out)]
    print(f"  as a second turn:  {exact(model, encoder, shifted):6.1%} of {len(shifted)}")
    for low, high in ((1, 10), (11, 30), (31, 60)):
        for name, words in (("", corpus.words), (" of held-out words", corpus.held_out_words)):
            texts = [sampler.copy_text(sampler.rng.randint(low, high), words) for _ in range(50)]
            copies = [ask(f"Repeat after me: {text}", text) for text in texts]
            share = exact(model, encoder, copies)
            print(f"copies, {low:2d}-{high:2d} words{name}: {share:6.1%} of {len(copies)}")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def publish(source: Path, target: Path) -> None:
    """Moves each file into place at once, the weights last, and prints its size in bytes."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        staged = target / f".{path.name}.new"
        shutil.copyfile(path, staged)
        staged.replace(target / path.name)
        print(f"{path.stat().st_size:9d} bytes  {target / path.name}")


def main() -> int:
    """Trains, examines and writes the model; 1 if the weights are too large."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=TARGET, help="folder to write (%(default)s)")
    parser.add_argument("--steps", type=int, default=1700, help="training steps (%(default)s)")
    parser.add_argument("--tokens", type=int, default=2304, help="tokens a step (%(default)s)")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all randomness (%(default)s)")
    options = parser.parse_args()

    started = time.monotonic()
    mx.set_default_device(mx.cpu)
    mx.random.seed(options.seed)
    corpus = read_corpus()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_tokenizer(Sampler(corpus, options.seed + 1), folder)
        write_configs(folder, tokenizer := AutoTokenizer.from_pretrained(folder))
        encoder = Encoder(tokenizer)
        pieces = (tokenizer.decode([token]).strip() for token in range(VOCABULARY))
        letters = tuple(piece for piece in pieces if piece.isalpha())
        sampler = Sampler(corpus, options.seed + 2, letters + tuple(FOREIGN))
        model = train(sampler, encoder, options.steps, options.tokens, options.rate)
        weights = dict(tree_flatten(model.parameters()))
        mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
        if (folder / "model.safetensors").stat().st_size > SIZE_LIMIT:
            print(f"The weights exceed {SIZE_LIMIT} bytes.", file=sys.stderr)
            return 1
        publish(folder, options.out)
    examine(model, encoder, Sampler(corpus, options.seed + 3))
    print(f"done in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
