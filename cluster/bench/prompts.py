"""Prompts of random words, of about so many tokens. Pure.

Servers keep prefixes of what they were asked before, so a run's words depend on a nonce of its
own: nothing of one run is cached in the next, and nothing of one session in another, unless it is
asked for (`--prefix`, `--turns`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

Message = dict[str, str]

WORDS = tuple(
    re.findall(
        r"\w+",
        """
    about after again air all along also always and animal answer any area ask away back base
    because become before began begin below better big bird black body book both bring build busy
    call came carry cause center change check city class clear close cold color come complete
    contain cook correct could country course cover cross cry dark day decide deep differ direct
    distant door down draw drive dry during each early earth ease east eat effect enough even ever
    every example eye face fact fall family farm fast father feel field figure fill final find fine
    fire first fish five follow food force form found four free friend from front full game gave
    general gold good govern great green ground group grow half hand happen hard head hear heat help
    here high hold home horse hot hour house hundred idea inch island keep kind king know land
    language large last late laugh lead learn leave left less letter life light line list listen
    little live long look love machine main make many map mark measure men might mile mind minute
    moon more morning most mother mountain move much music name near need never new night north note
    notice number object ocean once only open order other our over own page paper part pass pattern
    people perhaps person picture piece place plain plan plane plant play point port possible pound
    power press problem produce product pull question quick rain reach ready real record red
    remember rest right river road rock room round rule run same school science sea second seem
    sentence serve several shape ship short should show side simple since sing sit six size sleep
    slow small snow some song soon sound south special spell stand star start state stay step still
    stood stop story street strong study such sun sure surface system table tail take talk teach
    tell ten test than their these thing think those though thought thousand three through time
    together told toward town travel tree true try turn under unit until usual verb very voice vowel
    wait walk war warm watch water week weight west what wheel where which while white whole wind
    winter woman wonder wood word work world would write year young
    """,
    )
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How words become tokens on one server: `overhead` + `per_word` * words."""

    overhead: float
    """Tokens of a conversation with one empty message."""
    per_word: float

    def words(self, tokens: int, *, first: bool) -> int:
        """How many words make `tokens` more tokens of a prompt; the `first` message of a session
        pays for the overhead."""
        room = tokens - (self.overhead if first else 0.0)
        return max(1, round(room / self.per_word))


def calibrate(few: tuple[int, int], many: tuple[int, int]) -> Calibration:
    """From two prompts as (words, tokens): a line through both. Where that makes no sense, as
    for a server that counts nothing, one word is taken for one token."""
    (words, tokens), (more_words, more_tokens) = few, many
    per_word = (more_tokens - tokens) / (more_words - words)
    if not 0.1 <= per_word <= 20:
        return Calibration(0.0, 1.0)
    return Calibration(max(0.0, tokens - per_word * words), per_word)


def random_words(count: int, *key: object) -> str:
    """`count` words that `key` decides."""
    chance = Random(" ".join(map(str, ("words", *key))))
    return " ".join(chance.choices(WORDS, k=count))


@dataclass(frozen=True, slots=True)
class Prompts:
    """Writes the messages of a run."""

    nonce: str
    calibration: Calibration
    prefix: int = 0
    """Tokens of the shared system prompt."""

    def opening(self) -> list[Message]:
        """What every conversation begins with."""
        if not self.prefix:
            return []
        words = self.calibration.words(self.prefix, first=True)
        return [{"role": "system", "content": random_words(words, self.nonce, "prefix")}]

    def question(self, tokens: int, level: int, session: int, turn: int) -> Message:
        """A user's message that adds `tokens` to the prompt."""
        first = turn == 0 and not self.prefix
        count = self.calibration.words(tokens, first=first)
        return {
            "role": "user",
            "content": random_words(count, self.nonce, level, session, turn),
        }
