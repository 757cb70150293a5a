"""What grammars allow each constrained row to sample next, on rank 0.

llguidance (https://github.com/guidance-ai/llguidance) keeps one matcher for each sequence: it
gives the ids that may come next and is told which one came. Its compiler and its
masks release the GIL, so they work in threads of their own beside the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from mlx_lm.utils import load_config
from numpy.typing import NDArray

from cluster.core.errors import ProtocolError, StepRefused
from cluster.core.ids import Slot
from cluster.core.plan import Admit

WAIT_SECONDS = 30.0
"""Longest wait for the threads; llguidance's own limits end its work long before."""


@dataclass(slots=True)
class _Guide:
    """One sequence's grammar and how far its answer has got."""

    matcher: LLMatcher
    ends: tuple[int, ...]
    tokenizer: LLTokenizer
    over: bool = False
    """Nothing but an end id can follow."""

    def take(self, token: int) -> bool:
        """Go on by one id; False when it may not come here."""
        if self.over:
            return not self.ends or token in self.ends
        if token in self.ends:
            self.over = True
            return self.matcher.is_accepting()
        return self.matcher.consume_token(token) or not self.ends

    def fill(self, row: NDArray[np.uint8]) -> None:
        """Write what may come next to `row`, uint8 `[vocab]`."""
        ends = list(self.ends)
        if not self.over:
            bits = allocate_token_bitmask(1, self.tokenizer.vocab_size)
            fill_next_token_bitmask(self.matcher, bits)
            row[:] = np.unpackbits(bits.view(np.uint8)[0], count=row.size, bitorder="little")
            # llguidance's own end ids may be others: which end an answer is the request's affair.
            row[self.tokenizer.eos_tokens] = False
            row[ends] = self.matcher.is_accepting()
            self.over = self.matcher.is_stopped() or not row.any()
        if self.over:
            row[:] = not ends
            row[ends] = True


class Grammars:
    """The grammars of all slots. Used on rank 0's engine thread; owns two threads, which end
    with `close`."""

    def __init__(self, folder: Path, vocab: int) -> None:
        """`folder` is the model's; `vocab` is the number of its logits. The tokenizer is read
        in the background from now on, since that holds the GIL for up to a second; that it
        can't be read is told by the first `allowed`."""
        self._vocab = vocab
        self._guides: dict[Slot, Future[_Guide]] = {}
        self._masks: tuple[tuple[Slot, ...], Future[NDArray[np.bool_]]] | None = None
        # Two threads: a grammar that takes long to compile must not delay the masks of others.
        self._compiling = ThreadPoolExecutor(1, "grammar")
        self._masking = ThreadPoolExecutor(1, "mask")
        self._tokenizer = self._compiling.submit(_load, folder, vocab)

    def admit(self, admit: Admit) -> None:
        """A sequence begins in a slot: its grammar, if it has one, is compiled from now on, and
        gone through up to the end of `generated`."""
        self.drop(admit.slot)
        if admit.grammar:
            self._guides[admit.slot] = self._compiling.submit(self._compile, admit)

    def drop(self, slot: Slot) -> None:
        """The sequence in `slot` is over; nothing happens when it has no grammar."""
        guide = self._guides.pop(slot, None)
        if guide is not None:
            guide.cancel()

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._guides

    def begin(self, slots: Sequence[Slot]) -> None:
        """Start computing what `slots` may sample next; all their ids so far have been noted."""
        rows = tuple(slot for slot in dict.fromkeys(slots) if slot in self._guides)
        guides = [self._guides[slot] for slot in rows]
        self._masks = (rows, self._masking.submit(self._fill, guides)) if rows else None

    def allowed(self, slots: Sequence[Slot]) -> NDArray[np.bool_] | None:
        """What each of `slots` may sample next: bool `[len(slots), vocab]`, all True for a slot
        without a grammar; None when none has one. Waits for what `begin` started.

        A row has at least one True: only its end ids once its answer is complete, or anything
        if it has none; the same where llguidance gives up on an answer, as it does when a
        grammar turns out too ambiguous. Raises StepRefused when a grammar can't be compiled.
        """
        wanted = [i for i, slot in enumerate(slots) if slot in self._guides]
        if not wanted:
            return None
        if self._masks is None or not {slots[i] for i in wanted} <= set(self._masks[0]):
            self.begin(slots)
        assert self._masks is not None
        rows, job = self._masks
        try:
            masks = job.result(WAIT_SECONDS)
        except TimeoutError:
            raise StepRefused(f"no mask of slots {rows} within {WAIT_SECONDS:.0f} s") from None
        if rows == tuple(slots):
            return masks
        every = np.ones((len(slots), self._vocab), dtype=np.bool_)
        every[wanted] = masks[[rows.index(slots[i]) for i in wanted]]
        return every

    def note(self, slot: Slot, token: int) -> None:
        """`slot` has sampled `token`, to be told before the next `begin`; nothing happens when
        it has no grammar. Raises ProtocolError when the mask did not allow it."""
        self._masks = None
        if slot in self._guides and not self._guides[slot].result(WAIT_SECONDS).take(token):
            raise ProtocolError(f"slot {slot} sampled {token}, which its grammar doesn't allow")

    def close(self) -> None:
        """End both threads once the work under way is done. A second call does nothing."""
        self._compiling.shutdown(wait=False, cancel_futures=True)
        self._masking.shutdown(wait=False, cancel_futures=True)

    # In the threads

    def _compile(self, admit: Admit) -> _Guide:
        ends = tuple(end for end in admit.end_ids if end < self._vocab)
        tokenizer = self._tokenizer.result(WAIT_SECONDS)
        matcher = LLMatcher(tokenizer, admit.grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise StepRefused(f"slot {admit.slot}: its grammar can't be compiled: {reason}")
        guide = _Guide(matcher, ends, tokenizer)
        for place, token in enumerate(admit.generated):
            if not guide.take(token):
                raise StepRefused(
                    f"slot {admit.slot}: id {token}, the {place + 1}. of those generated before, "
                    "does not fit its grammar"
                )
        matcher.compute_bitmask()  # the first takes longest, and llguidance remembers
        return guide

    def _fill(self, guides: Sequence[Future[_Guide]]) -> NDArray[np.bool_]:
        masks = np.empty((len(guides), self._vocab), dtype=np.uint8)
        for row, guide in zip(masks, guides, strict=True):
            guide.result(WAIT_SECONDS).fill(row)
        return masks.view(np.bool_)


def _load(folder: Path, vocab: int) -> LLTokenizer:
    """The model's tokenizer, as llguidance wants it: with an end id of its own, which must be
    no id that has a text."""
    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        ends = load_config(folder).get("eos_token_id")
        try:
            return LLTokenizer(text, n_vocab=vocab, eos_token=ends)
        except ValueError:  # it has more ids than there are logits, or lacks one of the ends
            return LLTokenizer(text)
    except (OSError, ValueError) as error:
        raise StepRefused(f"the tokenizer in {folder} can't be used: {error}") from error
