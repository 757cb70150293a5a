"""How one sequence's next token is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of one sequence; rank 0 alone applies them.

    Applied in this order: repetition penalty, presence and frequency penalties, logit bias,
    temperature, then top_k, top_p and min_p on the resulting distribution.
    """

    temperature: float = 1.0
    """0 takes the most likely token; otherwise logits are divided by it. In [0, 2]."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set whose probability reaches top_p. In (0, 1]."""
    min_p: float = 0.0
    """Keep tokens at least min_p times as likely as the likeliest. In [0, 1]."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of ids seen in prompt or answer
    (Keskar et al. 2019, arXiv:1909.05858). Over 0; 1 is off."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of each id already in the answer. In [-2, 2]."""
    frequency_penalty: float = 0.0
    """Subtracted for each time an id is already in the answer. In [-2, 2]."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logit of each token id named. In [-100, 100]."""
    seed: int = 0
    """With the position, the key of the random numbers; 64 bits, unsigned."""

    @property
    def greedy(self) -> bool:
        """True when no random number is needed."""
        return self.temperature == 0.0

    @property
    def penalized(self) -> bool:
        """True when the ids seen so far change the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )
