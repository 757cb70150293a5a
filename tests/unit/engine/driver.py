"""Run a StepLoop in-process, and plain mlx-lm beside it for comparison."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step

from cluster.core.cluster import ShardPlan
from cluster.core.engine_protocol import PENDING
from cluster.core.ids import Epoch, Rank, Seq, Slot
from cluster.core.plan import Admit, Chunk, Step, StepResult
from cluster.core.sampling import Sampling
from cluster.engine.agree import Agreement
from cluster.engine.draft_model import DraftModel, load_draft
from cluster.engine.executor import Executor
from cluster.engine.grammar import Grammars
from cluster.engine.group import Group
from cluster.engine.loader import load
from cluster.engine.loop import StepLoop

EPOCH = Epoch(7)
ALONE = ShardPlan(1, Rank(0))
GREEDY = Sampling(temperature=0.0)
TIE = 1e-4


class Plan:
    """Steps with running numbers."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, **parts: Any) -> Step:
        step = Step(EPOCH, Seq(len(self.steps) + 1), **parts)
        self.steps.append(step)
        return step

    def prefill(
        self,
        slot: int,
        prompt: Sequence[int],
        *,
        sampling: Sampling = GREEDY,
        keep: int = 0,
        chunk: int = 1 << 30,
        history: Iterable[int] = (),
        draft: int = 0,
        admit: dict[str, Any] | None = None,
        **parts: Any,
    ) -> None:
        """Admit `slot` and prefill prompt[keep:] in chunks, one step each; `parts` go with the
        first step, `admit` are more fields of Admit."""
        known = tuple(history) or (tuple(prompt) if draft else ())
        begin = Admit(Slot(slot), keep, sampling, known, draft=draft, **(admit or {}))
        for start in range(keep, len(prompt), chunk):
            tokens = tuple(prompt[start : start + chunk])
            last = start + chunk >= len(prompt)
            self.add(
                admit=(begin,) if start == keep else (),
                chunks=(Chunk(Slot(slot), start, tokens, last),),
                **(parts if start == keep else {}),
            )

    def decode(self, *slots: int, iterations: int = 1, **parts: Any) -> None:
        self.add(decode=tuple(map(Slot, slots)), iterations=iterations, **parts)


def texts(steps: Sequence[Step], results: Sequence[StepResult]) -> dict[int, list[int]]:
    """Sampled ids by slot; a slot that is admitted again begins anew under slot + 100, ..."""
    out: dict[int, list[int]] = {}
    name: dict[int, int] = {}
    for step, result in zip(steps, results, strict=True):
        for admit in step.admit:
            name[admit.slot] = name.get(admit.slot, admit.slot - 100) + 100
            out[name[admit.slot]] = []
        ids = iter(result.decoded)
        for i, count in enumerate(result.counts or [1] * len(result.decoded)):
            out[name[step.decode[i % len(step.decode)]]].extend(islice(ids, count))
        sampled = [chunk.slot for chunk in step.chunks if chunk.sample]
        for slot, token in zip(sampled, result.prefilled, strict=True):
            out[name[slot]].append(token)
    return out


@dataclass
class Running:
    """An engine thread with its StepLoop."""

    folder: Path
    group: Group | None = None
    error: BaseException | None = None
    kv_bits: int = 0
    grammars: bool = False
    """Answers can be constrained; needs a tokenizer."""
    draft: Path | None = None
    """Folder of a draft model."""
    _results: queue.Queue[StepResult | BaseException] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        self._ready: queue.Queue[Any] = queue.Queue()
        self.thread = Thread(target=self._body, daemon=True)
        self.thread.start()
        ready = self._ready.get(timeout=60)
        if isinstance(ready, BaseException):
            raise ready
        self.executor, self.loop = ready

    def _body(self) -> None:
        try:
            loaded = load(self.folder, ALONE, self.group, lambda fraction: None, self.kv_bits)
            grammars = (lambda vocab: Grammars(self.folder, vocab)) if self.grammars else None
            drafting = load_draft(self.draft, lambda fraction: None) if self.draft else None
            draft_model = DraftModel(drafting, Agreement(self.group)) if drafting else None
            executor = Executor(loaded, self.group, grammars=grammars, draft_model=draft_model)
            rank = self.group.rank() if self.group else 0
            loop = StepLoop(executor, EPOCH, self._results.put, rank=rank)
            self._ready.put((executor, loop))
        except BaseException as error:
            self._ready.put(error)
            return
        try:
            loop.run()
        except BaseException as error:
            self._results.put(error)

    def result(self, seconds: float = 60) -> StepResult:
        result = self._results.get(timeout=seconds)
        if isinstance(result, BaseException):
            raise result
        return result

    def run(self, steps: Sequence[Step], ahead: int = 2) -> list[StepResult]:
        """Submit all, at most `ahead` unanswered."""
        assert ahead <= PENDING
        results: list[StepResult] = []
        for sent, step in enumerate(steps):
            while sent - len(results) >= ahead:
                results.append(self.result())
            self.loop.submit(step)
        while len(results) < len(steps):
            results.append(self.result())
        return results

    def close(self) -> None:
        self.loop.close()
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


def reference(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """What plain mlx-lm generates greedily."""
    steps = generate_step(mx.array(list(prompt)), model, max_tokens=count)
    return [int(token) for token, _ in steps]


def compare(
    model: Any,
    prompt: Sequence[int],
    ours: Sequence[int],
    theirs: Sequence[int],
    say: Callable[[str], object] = print,
) -> None:
    """Equal, except from a place on where the reference's two best were closer than TIE."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a == b:
            continue
        logits = model(mx.array([[*prompt, *theirs[:i]]]))[0, -1]
        top = mx.sort(logits)[-2:].tolist()
        assert top[1] - top[0] < TIE, f"token {i}: {a} instead of {b}, {list(ours)} {list(theirs)}"
        say(f"tie at token {i}: {top}")
        return
