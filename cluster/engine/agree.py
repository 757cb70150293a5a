"""In-band agreement: rank 0 samples, every rank learns the ids in the same graph."""

from __future__ import annotations

from typing import cast

import mlx.core as mx

from cluster.engine.group import Group


class Agreement:
    """How the ranks of one group come to know the sampled ids; nothing to do for world 1."""

    def __init__(self, group: Group | None) -> None:
        self._group = group
        self.samples = group is None or group.rank() == 0
        """True on the rank whose choice counts."""

    def agree(self, logits: mx.array, chosen: mx.array | None) -> mx.array:
        """Ids as rank 0 chose them: int32 `[rows]`, equal on all ranks.

        `logits` are this rank's own, `[rows, vocab]`; `chosen` are rank 0's ids, int32
        `[rows]`, and None elsewhere. One small `all_gather`: on a ring it takes half the messages
        of an `all_sum`.
        """
        if self._group is None:
            assert chosen is not None
            return chosen
        if chosen is None:
            # Not looked at, but it must depend on this rank's own logits: or its forward pass
            # would never be evaluated, and its collectives never issued.
            chosen = mx.argmax(logits, axis=-1).astype(mx.int32)
        return mx.distributed.all_gather(chosen, group=self._group)[: chosen.shape[0]]

    def tell(self, ids: mx.array | None, count: int) -> list[int]:
        """What rank 0 alone has computed: `ids`, int32 `[count]`, None elsewhere. Waits for it, so
        nothing else may be under way, and every rank must call it at the same place."""
        if self._group is not None:
            if ids is None:
                ids = mx.zeros((count,), dtype=mx.int32)
            ids = mx.distributed.all_gather(ids, group=self._group)[:count]
        assert ids is not None
        return cast("list[int]", ids.tolist())
