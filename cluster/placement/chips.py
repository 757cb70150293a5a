"""What chips can do, as their makers publish it: how fast they read memory and compute."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip whose name is known."""

    bandwidth: float
    """Of its memory, bytes per second."""
    flops: float
    """Operations per second on 16-bit values, dense."""
    metal: bool = True
    """Else it is NVIDIA's."""


def _apple(gigabytes: float, teraflops: float) -> Chip:
    return Chip(gigabytes * 1e9, teraflops * 1e12)


def _nvidia(gigabytes: float, teraflops: float) -> Chip:
    return Chip(gigabytes * 1e9, teraflops * 1e12, metal=False)


CHIPS = {
    "Apple M1": _apple(68.25, 2.6),
    "Apple M1 Pro": _apple(200, 5.2),
    "Apple M1 Max": _apple(400, 10.4),
    "Apple M1 Ultra": _apple(800, 20.8),
    "Apple M2": _apple(100, 3.6),
    "Apple M2 Pro": _apple(200, 6.8),
    "Apple M2 Max": _apple(400, 13.6),
    "Apple M2 Ultra": _apple(800, 27.2),
    "Apple M3": _apple(100, 4.1),
    "Apple M3 Pro": _apple(150, 7.4),
    "Apple M3 Max": _apple(400, 16.4),
    "Apple M3 Ultra": _apple(819, 32.8),
    "Apple M4": _apple(120, 4.6),
    "Apple M4 Pro": _apple(273, 9.2),
    "Apple M4 Max": _apple(546, 18.4),
    "Apple M5": _apple(153, 5.0),
    "Apple M5 Pro": _apple(307, 10.0),
    "Apple M5 Max": _apple(614, 20.0),
    "RTX 3090": _nvidia(936, 71),
    "RTX 4090": _nvidia(1008, 165),
    "RTX 5090": _nvidia(1792, 210),
    "NVIDIA A100": _nvidia(2039, 312),
    "NVIDIA H100": _nvidia(3350, 989),
    "NVIDIA H200": _nvidia(4800, 989),
}
"""By name, each with its largest GPU: a name does not tell a smaller one. Bandwidth is published
by Apple and NVIDIA, and operations by NVIDIA, and by Apple up to M2. From M3 on they are GPU cores
times 0.41 (M3), 0.46 (M4) and 0.5 (M5, without its neural accelerators) TFLOPS, with which
prefill in llama.cpp's table of Apple chips (discussion 4167 of its repository) follows from one
efficiency, as it does for M1 and M2."""


def find_chip(name: str) -> Chip | None:
    """The chip that `name`, as machines report it, speaks of; None for one that is not known."""
    known = sorted(CHIPS, key=len, reverse=True)
    found = (key for key in known if re.search(rf"\b{re.escape(key)}\b", name, re.IGNORECASE))
    return next((CHIPS[key] for key in found), None)
