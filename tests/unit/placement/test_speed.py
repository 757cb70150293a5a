"""Predictions against figures that others published, all from one set of constants."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.placement.chips import CHIPS, find_chip
from cluster.placement.links import LINKS, Link, Links
from cluster.placement.parameters import weight_sizes
from cluster.placement.speed import (
    FAST_FENCE,
    METAL_FENCE,
    Rate,
    Speed,
    predict_speed,
    work,
)

QWEN_235B = json.loads(
    (Path(__file__).parent / "configs" / "qwen3-235b-a22b-8bit.json").read_text()
)
LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
    "num_hidden_layers": 32, "intermediate_size": 11008, "vocab_size": 32000,
    "torch_dtype": "float16", "quantization": {"bits": 4, "group_size": 64},
}  # fmt: skip
LLAMA_70B = {
    **LLAMA_7B, "hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": 8,
    "num_hidden_layers": 80, "intermediate_size": 28672, "vocab_size": 128256,
}  # fmt: skip


def speed(
    config: dict[str, Any],
    chip: str,
    world: int = 1,
    kind: str = "tensor",
    *,
    link: Link = LINKS["rdma"],
    fence: float = FAST_FENCE,
    context: int = 4096,
    kv_bits: int = 0,
) -> Speed:
    made = CHIPS[chip]
    split = kind if world > 1 else "single"
    todo = work(config, weight_sizes(config), world, split, kv_bits)
    rates = [Rate(made.bandwidth, made.flops)] * world
    return predict_speed(todo, rates, link, fence, context)


@pytest.mark.parametrize(("world", "published"), [(1, 19.5), (2, 26.2), (4, 31.9)])
def test_qwen_on_mac_studios_over_rdma(world: int, published: float) -> None:
    """exo 1.0 on M3 Ultra, December 2025 (Jeff Geerling, "1.5 TB of VRAM on Mac Studio"), which
    sets MLX_METAL_FAST_SYNCH=1. In 8 bits: with half the bytes the three would not differ so."""
    said = speed(QWEN_235B, "Apple M3 Ultra", world)
    assert said.decode == pytest.approx(published, rel=0.2)


@pytest.mark.parametrize(
    ("chip", "prefill", "decode"),
    [
        ("Apple M1 Ultra", 1030, 83.7),
        ("Apple M2 Ultra", 1238, 94.3),
        ("Apple M3 Ultra", 1471, 92.1),
        ("Apple M4 Pro", 440, 50.7),
        ("Apple M4 Max", 886, 83.1),
        ("Apple M5 Max", 987, 102.9),
    ],
)
def test_llama_7b_on_one_chip(chip: str, prefill: float, decode: float) -> None:
    """pp512 and tg128 of Q4_0, whose weights take as many bits as 4 in groups of 64:
    llama.cpp's discussion 4167. Another engine, so a little more may differ."""
    assert speed(LLAMA_7B, chip, context=128).decode == pytest.approx(decode, rel=0.25)
    assert speed(LLAMA_7B, chip, context=512).prefill == pytest.approx(prefill, rel=0.25)


def test_a_dense_model_of_70_billion() -> None:
    """Llama 3.3 70B in Q4_K_M on one M3 Ultra by llama.cpp: 14.41 tok/s (geerlingguy's
    beowulf-ai-cluster, issue 17). Nothing was fitted to it."""
    said = speed(LLAMA_70B, "Apple M3 Ultra", context=128)
    assert said.decode == pytest.approx(14.41, rel=0.2)


def test_the_formula_by_hand() -> None:
    """T = a/N + b + 2L (t_link + t_fence), and T = a + b + N (t_link + t_fence)."""
    link = Link("test", 100e-6, 1e9)
    todo = replace(
        work(LLAMA_7B, weight_sizes(LLAMA_7B), 2, "tensor", 0),
        layers=10, read_bytes=8e9, position_bytes=0, slot_bytes=0,
    )  # fmt: skip
    rates = [Rate(1000e9, 1e12), Rate(500e9, 1e12)]
    said = predict_speed(todo, rates, link, 50e-6, 1)
    fixed = 10 * 140e-6
    assert 1 / said.decode == pytest.approx(8 / (0.8 * 500) + fixed + 20 * 150e-6)
    assert said.waiting == pytest.approx(20 * 150e-6 * said.decode)
    staged = predict_speed(replace(todo, kind="pipeline"), rates, link, 50e-6, 1)
    reading = 8 / (0.8 * 500) + 8 / (0.8 * 1000)
    assert 1 / staged.decode == pytest.approx(reading + fixed + 2 * 150e-6)


def test_fences_and_slow_links_undo_what_more_ranks_gain() -> None:
    chip = "Apple M3 Ultra"
    one = speed(QWEN_235B, chip).decode
    assert speed(QWEN_235B, chip, 4, fence=METAL_FENCE).decode < one
    slow = speed(QWEN_235B, chip, 4, link=LINKS["thunderbolt"], fence=METAL_FENCE)
    assert slow.decode < one / 3
    assert slow.waiting > 0.8
    staged = speed(QWEN_235B, chip, 4, "pipeline", link=LINKS["thunderbolt"], fence=METAL_FENCE)
    assert 0.9 * one < staged.decode <= one, "stages take turns"


def test_what_takes_longer() -> None:
    chip = "Apple M4 Max"
    short, long = speed(LLAMA_7B, chip), speed(LLAMA_7B, chip, context=65536)
    assert short.decode == long.decode
    assert long.decode_full < short.decode
    packed = speed(LLAMA_7B, chip, context=65536, kv_bits=8)
    assert long.decode_full < packed.decode_full
    eight = {**LLAMA_7B, "quantization": {"bits": 8, "group_size": 64}}
    assert speed(eight, chip).decode < short.decode
    ethernet = LINKS["ethernet"]
    assert speed(LLAMA_7B, chip, 2, link=ethernet).prefill < speed(LLAMA_7B, chip, 2).prefill


def test_a_ring_has_more_steps_and_a_mesh_has_not() -> None:
    assert LINKS["rdma"].seconds(4) == LINKS["rdma"].seconds(2)
    assert LINKS["thunderbolt"].seconds(4) == 3 * LINKS["thunderbolt"].seconds(2)


def test_the_worst_link_of_a_ring() -> None:
    cable = LINKS["thunderbolt"]
    links = Links(LINKS["wifi"], {frozenset("ab"): cable, frozenset("bc"): LINKS["rdma"]})
    assert links.worst(["a", "b"]).kind == "thunderbolt"
    assert links.worst(["a", "b", "c"]).kind == "wifi", "the ring is closed"
    assert links.worst(["b", "c"]).mesh
    assert not links.worst(["a", "b", "c"]).mesh
    assert links.worst(["a", "a"]).kind == links.worst(["a"]).kind == "loopback"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Apple M3 Ultra", "Apple M3 Ultra"),
        ("Apple M4", "Apple M4"),
        ("AMD EPYC 9654, NVIDIA H100 80GB HBM3", "NVIDIA H100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("Apple M40", ""),
        ("Intel Xeon", ""),
    ],
)
def test_chips_by_name(name: str, known: str) -> None:
    assert find_chip(name) is CHIPS.get(known)
