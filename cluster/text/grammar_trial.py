"""Compile a grammar to see whether that can be done: `python -m cluster.text.grammar_trial`.

A process of its own, because llguidance counts most of its work against its limits but not all:
twenty intersected patterns keep it busy for ever, and a thread can't be ended. Reads
[grammars, names of special tokens, tokenizer.json] from stdin and prints a list of what is wrong
with each grammar.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper


class _Bytes:
    """A vocabulary of the 256 bytes and some special tokens: quick to make, and what can be
    said in it can be said in any other."""

    bos_token_id = None

    def __init__(self, specials: Sequence[str]) -> None:
        names = [*specials, "<|end-of-everything|>"]
        self.tokens = [bytes([byte]) for byte in range(256)] + [name.encode() for name in names]
        self.special_token_ids = list(range(256, len(self.tokens)))
        self.eos_token_id = len(self.tokens) - 1

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def trial(grammar: str, tokenizer: LLTokenizer) -> str:
    """Why `grammar` can't be compiled or followed; empty when it can."""
    try:
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
    except ValueError as error:  # half a surrogate pair
        return str(error)
    if not matcher.is_error():
        matcher.compute_bitmask()
        if matcher.is_stopped() and not matcher.is_accepting():
            return "no text satisfies it"
    return matcher.get_error() if matcher.is_error() else ""


def main() -> None:
    """See above."""
    grammars, specials, file = json.load(sys.stdin)
    try:
        if file:
            tokenizer = LLTokenizer(Path(file).read_text(encoding="utf-8"))
        else:
            tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(specials)), slices=[])
        reasons = [trial(grammar, tokenizer) for grammar in grammars]
    except (OSError, ValueError) as error:
        reasons = [f"llguidance can't read this model's tokenizer: {error}"] * len(grammars)
    json.dump(reasons, sys.stdout)


if __name__ == "__main__":
    main()
