"""Starts a fresh llama with attention heads that copy, so that training only has to refine them.

Copying needs two layers that fit each other (Olsson et al. 2022, "In-context Learning and
Induction Heads"): heads of layer 0 note at each position which token came before, and heads of
layer 1 find the earlier position that followed the same token and repeat what stands there. From
random weights this pair forms late, after thousands of steps; here it is there from the first.
"""

import math

import mlx.core as mx
from mlx_lm.models.llama import Model

CONSTANT = 0.2  # embedding column 0, the same for every token: what a position-only head reads
POINTER = 2.0  # weight of the position-only queries and keys
FAST = 12  # rotary frequencies, the fastest first, by which a head counts tokens back
SLOW = 16  # rotary frequencies from this one on turn so slowly that distance hardly matters


def plant(model: Model) -> None:
    """Sets heads 0 and 1 of layers 0 and 1 and damps every other output; uses MLX's random state.

    In layer 0, head h reads the token h + 1 back. In layer 1, head 0 looks for the position that
    followed the token now read, and head 1 for the one that followed the token before it, too.
    """
    width = model.args.hidden_size
    size = model.args.head_dim or width // model.args.num_attention_heads
    embedding = model.model.embed_tokens.weight
    embedding[:, 0] = CONSTANT
    for layer in model.layers:
        layer.self_attn.o_proj.weight *= 0.05
        layer.mlp.down_proj.weight *= 0.05

    content = _orthonormal(size, width)  # [size, width]: the part of an embedding that is noted
    content[:, 0] = 0.0
    notes = [_orthonormal(size, width) for _ in range(2)]  # where layer 0's head h writes it
    first, second = model.layers[0].self_attn, model.layers[1].self_attn
    slow = mx.array([i for i in range(size) if i % (size // 2) >= SLOW])
    for head, wanted in enumerate((content, notes[0])):
        rows = slice(head * size, (head + 1) * size)
        query, key = _look_back(head + 1, size, width, model.args.rope_theta)
        first.q_proj.weight[rows] = query
        first.k_proj.weight[rows] = key
        first.v_proj.weight[rows] = content
        first.o_proj.weight[:, rows] = 0.1 * notes[head].T

        mixed = _orthonormal(slow.size, size)
        repeated = _orthonormal(size, width)
        second.q_proj.weight[rows] = mx.zeros((size, width)).at[slow].add(0.9 * mixed @ wanted)
        second.k_proj.weight[rows] = mx.zeros((size, width)).at[slow].add(0.9 * mixed @ notes[head])
        second.v_proj.weight[rows] = repeated
        second.o_proj.weight[:, rows] = 0.3 * repeated.T


def _look_back(distance: int, size: int, width: int, base: float) -> tuple[mx.array, mx.array]:
    """Query and key weights, [size, width] each, whose score is greatest `distance` back."""
    query, key = mx.zeros((size, width)), mx.zeros((size, width))
    for i in range(FAST):
        angle = distance * base ** (-2 * i / size)
        query[i, 0] = POINTER
        key[i, 0] = POINTER * math.cos(angle)
        key[i + size // 2, 0] = POINTER * math.sin(angle)
    return query, key


def _orthonormal(rows: int, columns: int) -> mx.array:
    """[rows, columns] with orthonormal rows, at random."""
    square, _ = mx.linalg.qr(mx.random.normal((columns, columns)), stream=mx.cpu)
    return square.T[:rows]
