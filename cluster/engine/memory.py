"""Bounds of what MLX and the C library keep for later, so that a process's size stays flat."""

from __future__ import annotations

import ctypes
import sys

import mlx.core as mx

GPU_CACHE_BYTES = 1 << 30
CPU_CACHE_BYTES = 128 << 20
"""Freed buffers that MLX may keep for the next launch. Its own default grows to nearly all of
the machine's memory, as prompts of all lengths leave buffers of all sizes behind."""

MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's malloc.h."""
MAPPED_BYTES = 128 << 10
"""Allocations from this size on are mapped and so go back to the system when freed. Unless it
is set, glibc raises its threshold as it goes, and KV caches leave holes in the heap."""


def bound() -> None:
    """Set the bounds, once, before the first array."""
    on_cpu = mx.default_device() == mx.cpu
    mx.set_cache_limit(CPU_CACHE_BYTES if on_cpu else GPU_CACHE_BYTES)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(MMAP_THRESHOLD, MAPPED_BYTES)
