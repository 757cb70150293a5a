"""Bounds of what MLX and the C library keep for later."""

from __future__ import annotations

import mlx.core as mx

CACHE_BYTES = 256 << 20
"""Freed buffers that MLX may keep for the next launch. Its own default grows to nearly all of
the machine's memory, as prompts of all lengths leave buffers of all sizes behind."""


def bound() -> None:
    """Set the bounds, once, before the first array."""
    mx.set_cache_limit(CACHE_BYTES)
