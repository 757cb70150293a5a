"""The raw loop: what mlx-lm generates on one rank when nobody serves anything.

    python -m benchmarks.raw FOLDER

One process per rank; with MLX_HOSTFILE in the environment the ranks form a ring and shard the
model. Reads one JSON object a line from standard input, every rank the same ones, and answers
each with one line:

    {"contents": [TEXT], "max_tokens": N}
        one stream: generate_step -> first (s), rate (tok/s), prompt_tokens
    {"contents": [TEXT, ...], "max_tokens": N}
        several together: BatchGenerator -> seconds, tokens
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, generate_step
from mlx_lm.utils import load, sharded_load


def one(model: Any, prompt: list[int], max_tokens: int) -> dict[str, float]:
    """A single greedy stream."""
    begin = time.perf_counter()
    times = []
    for _token, _logprobs in generate_step(mx.array(prompt), model, max_tokens=max_tokens):
        times.append(time.perf_counter())
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
    return {"first": times[0] - begin, "rate": rate, "prompt_tokens": len(prompt)}


def several(model: Any, prompts: list[list[int]], max_tokens: int) -> dict[str, float]:
    """All streams in one batch from the first step on; greedy."""
    begin = time.perf_counter()
    size = len(prompts)
    batch = BatchGenerator(
        model, max_tokens=max_tokens, completion_batch_size=size, prefill_batch_size=size
    )
    try:
        batch.insert(prompts)
        tokens = 0
        while tokens < size * max_tokens:
            tokens += len(batch.next_generated())
    finally:
        batch.close()
    return {"seconds": time.perf_counter() - begin, "tokens": tokens}


def main() -> None:
    folder = sys.argv[1]
    if "MLX_HOSTFILE" in os.environ:
        group = mx.distributed.init(strict=True, backend="ring")
        loaded: Any = sharded_load(folder, None, group)
    else:
        loaded = load(folder)
    model, tokenizer = loaded[:2]
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            for content in asked["contents"]
        ]
        if len(prompts) == 1:
            answer = one(model, prompts[0], asked["max_tokens"])
        else:
            answer = several(model, prompts, asked["max_tokens"])
        print(json.dumps(answer), flush=True)
    os._exit(0)  # an MLX process sometimes aborts in the interpreter's own exit


if __name__ == "__main__":
    main()
