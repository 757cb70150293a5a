"""Samples the conversations that the demo model learns from. Pure: text and a random stream in."""

import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Message = dict[str, Any]

HERE = Path(__file__).parent
COPY_REQUESTS = (
    "Repeat after me: {}",
    "repeat after me: {}",
    "Please repeat after me: {}",
    "Repeat: {}",
    "Say: {}",
    "Echo: {}",
    "Copy this: {}",
)
FILLER = re.compile("an?|the|is|are|does?|can|how|what|i|you|it|my|to|of|in|for", re.IGNORECASE)
REWORDINGS = tuple(
    (re.compile(pattern), choices)
    for pattern, choices in (
        (r"^Which ", ("What ",)),
        (r"^What (?!is|are|does|do|if|about|happens|can)", ("Which ",)),
        (
            r"^How (do|can) I ",
            ("How can I ", "How to ", "How would I ", "How do you ", "How do we "),
        ),
        (r"^What is ", ("What's ", "Whats ", "What exactly is ", "So what is ")),
        (r"^Can I ", ("Could I ", "Is it possible to ", "May I ", "Can we ", "Can you ")),
        (r"^Does (it|Tandem) ", ("Does it ", "Does Tandem ", "Will it ", "Can it ", "Can Tandem ")),
        (r"^Is there ", ("Do you have ", "Does Tandem have ")),
        (r"^What happens (when|if) ", ("What if ", "What happens if ", "What happens when ")),
        (r" the server", (" it", " Tandem")),
        (r" Macs\b", (" machines", " computers")),
        (r" Mac\b", (" machine", " computer")),
    )
)
EMOJI = "🙂😀😂😍😎😢🤖👍👋🙏🎉🔥🚀⭐❤✅"
ACCENTED = "áàâäãåæçéèêëíîïñóòôöøúùûüßžšł"
CODE = (
    "print('{}')",
    "{} = {} + 1",
    "def {}({}): return {}",
    "for {} in range({}): {}()",
    "if {} == {}: {}",
    "{}.{}({}, {})",
    "{{'{}': {}}}",
    "<{}>{}</{}>",
    "a + b = c",
    "{}@{}.com",
    "{}/{}/{}.py",
)
COUNTS = ("Count to {}.", "Count from 1 to {}.", "Count up to {}.", "Can you count to {}?")
MARKED = '<tool_call>\n{{"name": "{}", "arguments": {{"{}": "{}"}}}}\n</tool_call>'


@dataclass(frozen=True)
class Answer:
    """One answer with the questions that lead to it; `held_out` ones are never trained on."""

    text: str
    questions: tuple[str, ...]
    patterned: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Everything read from the data files."""

    answers: tuple[Answer, ...]
    patterns: tuple[str, ...]
    openings: tuple[str, ...]
    systems: tuple[str, ...]
    unknown: tuple[str, ...]
    unknown_answer: str
    names: tuple[str, ...]
    words: tuple[str, ...]
    held_out_words: tuple[str, ...]


def _lines(name: str) -> list[str]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _read_answers() -> tuple[Answer, ...]:
    """Reads answers.txt."""
    patterns = _lines("patterns.txt")
    answers: list[Answer] = []
    asked: list[str] = []
    held_out: list[str] = []
    topics: list[str] = []
    for line in _lines("answers.txt"):
        mark, text = line[0], line[2:]
        if mark == "?":
            asked.append(text)
        elif mark == "!":
            held_out.append(text)
        elif mark == "~":
            topics.append(text)
        else:
            expanded = [pattern.format(topic) for topic in topics for pattern in patterns]
            answers.append(Answer(text, tuple(asked), tuple(expanded), tuple(held_out)))
            asked, held_out, topics = [], [], []
    return tuple(answers)


def read_corpus() -> Corpus:
    """Reads the data files beside this module."""
    words = " ".join(_lines("words.txt")).split()
    unknown = _lines("unknown.txt")
    return Corpus(
        answers=_read_answers(),
        patterns=tuple(_lines("patterns.txt")),
        openings=tuple(_lines("openings.txt")),
        systems=tuple(_lines("systems.txt")),
        unknown=tuple(unknown[:-1]),
        unknown_answer=unknown[-1][2:],
        names=tuple(" ".join(_lines("names.txt")).split()),
        words=tuple(word for i, word in enumerate(words) if i % 10 != 9),
        held_out_words=tuple(word for i, word in enumerate(words) if i % 10 == 9),
    )


def vary(question: str, rng: random.Random) -> str:
    """Asks the same in another case or punctuation, or less well: words or a letter wrong."""
    words = question.split()
    if len(words) > 2 and rng.random() < 0.25:
        kept = [w for w in words if rng.random() < (0.5 if FILLER.fullmatch(w) else 0.96)]
        if rng.random() < 0.2:
            rng.shuffle(kept)
        question = " ".join(kept) or question
    if rng.random() < 0.45:
        question = question.lower()
    if rng.random() < 0.3:
        question = question.rstrip("?.!")
    elif rng.random() < 0.05:
        question += rng.choice("?!")
    if rng.random() < 0.06 and len(question) > 8:
        question = _mistyped(question, rng)
    return question.upper() if rng.random() < 0.02 else question


def reword(question: str, rng: random.Random) -> str:
    """Asks the same with other common words, such as "how can I" for "how do I"."""
    for pattern, choices in REWORDINGS:
        if rng.random() < 0.35:
            question = pattern.sub(rng.choice(choices), question, count=1)
    if question.endswith("?") and "Tandem" not in question and rng.random() < 0.05:
        question = question[:-1] + rng.choice((" in Tandem?", " with Tandem?"))
    return question


def _plain(question: str) -> str:
    return question.lower().rstrip("?.! ")


def _mistyped(text: str, rng: random.Random) -> str:
    """Drops, doubles or swaps a letter; leaves numbers alone."""
    at = rng.randrange(1, len(text) - 1)
    if text[at].isdigit() or text[at + 1].isdigit():
        return text
    middle = rng.choice(("", text[at] * 2, text[at + 1] + text[at]))
    return text[:at] + middle + text[at + 1 + (len(middle) == 2 and middle[0] != text[at]) :]


class Sampler:
    """Draws conversations from a corpus; the same seed gives the same conversations."""

    def __init__(self, corpus: Corpus, seed: int, pieces: tuple[str, ...] = ()) -> None:
        """`pieces`, if any, are texts of tokens, of which made-up words are put together."""
        self.corpus = corpus
        self.pieces = pieces or tuple(string.ascii_lowercase)
        self.rng = random.Random(seed)
        self._sentences = [a.text for a in corpus.answers] + [
            question for a in corpus.answers for question in a.questions + a.patterned
        ]
        self._answer_words = [w for a in corpus.answers for w in a.text.split()]
        self._weights = [
            (len(a.questions) + (6 if a.patterned else 0)) ** 0.5 for a in corpus.answers
        ]
        self._held_out = {_plain(question) for a in corpus.answers for question in a.held_out}
        self._meaningful = {
            word.lower()
            for a in corpus.answers
            for question in a.questions + a.patterned
            for word in re.findall(r"\w+", question)
        }

    def conversation(self, characters: int, max_words: int) -> list[Message]:
        """Turns until their text exceeds `characters`; copies have at most `max_words` words."""
        messages: list[Message] = []
        if self.rng.random() < 0.25:
            messages.append({"role": "system", "content": self._system()})
        turns: list[Callable[[], list[Message]]] = [
            self._known,
            lambda: self._copy(max_words),
            self._unknown,
            self._count,
        ]
        size = 0
        while size < characters:
            turn = self.rng.choices(turns, weights=(56, 25, 15, 4))[0]()
            size += sum(len(message["content"]) + 12 for message in turn)
            messages += turn
        return messages

    def copy_text(self, count: int, words: tuple[str, ...] = ()) -> str:
        """`count` words for a copy; drawn from `words`, or by default from everything known."""
        if words:
            return " ".join(self.rng.choice(words) for _ in range(count))
        text = " ".join(self._words(count))
        return text + self.rng.choice((".", "!", "?")) if self.rng.random() < 0.2 else text

    def _known(self) -> list[Message]:
        (answer,) = self.rng.choices(self.corpus.answers, weights=self._weights)
        choices = answer.questions
        if answer.patterned and self.rng.random() < 0.3:
            choices = answer.patterned
        while _plain(question := reword(self.rng.choice(choices), self.rng)) in self._held_out:
            pass
        return [_user(self._dressed(question)), _assistant(answer.text)]

    def _dressed(self, question: str) -> str:
        """Varies the question, and puts something polite around it now and then."""
        while _plain(varied := vary(question, self.rng)) in self._held_out:
            pass
        question = varied
        if self.rng.random() < 0.3:
            question = self.rng.choice(self.corpus.openings).format(question)
            if self.rng.random() < 0.4:
                question = question.lower()
        return question

    def _copy(self, max_words: int) -> list[Message]:
        kind = self.rng.random()
        if kind < 0.03:
            text = MARKED.format(*(self._word() for _ in range(3)))
        elif kind < 0.15:
            text = vary(self.rng.choice(self._sentences), self.rng)
        elif kind < 0.29:
            text = self._repeated()
        elif kind < 0.35:
            pattern = self.rng.choice(CODE)
            text = pattern.format(*(self._word() for _ in range(4)))
        elif kind < 0.41:
            text = self._decorated()
        else:
            text = self.copy_text(1 + int(max_words * self.rng.random() ** 1.5))
        return [_user(self.rng.choice(COPY_REQUESTS).format(text)), _assistant(text)]

    def _repeated(self) -> str:
        """Few words that return, often at once: "a a a b"."""
        few = [self._word() for _ in range(self.rng.randint(1, 3))]
        if self.rng.random() < 0.3:
            few = self.rng.sample(string.ascii_lowercase, len(few))
        count = self.rng.randint(2, 10)
        if self.rng.random() < 0.5:
            return " ".join(self.rng.choice(few) for _ in range(count))
        runs = [[word] * self.rng.randint(1, 5) for word in few]
        return " ".join(word for run in runs for word in run)

    def _decorated(self) -> str:
        """Words with accents and emoji."""
        words = self._words(self.rng.randint(0, 5))
        for _ in range(self.rng.randint(1, 4)):
            word = self.rng.choice(EMOJI)
            if self.rng.random() < 0.5:
                letters = self.rng.choices(string.ascii_lowercase + 3 * ACCENTED, k=4)
                word = "".join(letters)
            words.insert(self.rng.randint(0, len(words)), word)
        return " ".join(words)

    def _unknown(self) -> list[Message]:
        known = self.rng.random() < 0.25  # a known way to ask about something unknown
        pattern = self.rng.choice(self.corpus.patterns if known else self.corpus.unknown)
        words = [self._stranger() for _ in range(pattern.count("{}"))]
        return [
            _user(self._dressed(pattern.format(*words))),
            _assistant(self.corpus.unknown_answer),
        ]

    def _stranger(self) -> str:
        """A word that no known question has."""
        while (word := self._word()).lower().strip("?.,!:`'") in self._meaningful:
            pass
        return word

    def _count(self) -> list[Message]:
        last = self.rng.randint(2, 20)
        text = ", ".join(str(i) for i in range(1, last + 1)) + "."
        return [_user(self._dressed(self.rng.choice(COUNTS).format(last))), _assistant(text)]

    def _system(self) -> str:
        if self.rng.random() < 0.7:
            return self.rng.choice(self.corpus.systems)
        return " ".join(self._words(self.rng.randint(3, 25)))

    def _words(self, count: int) -> list[str]:
        """Common words, or a mixture: from the answers, names, numbers and made-up words, too."""
        kind = self.rng.random()
        if kind < 0.4:
            return [self.rng.choice(self.corpus.words) for _ in range(count)]
        return [self._word() for _ in range(count)]

    def _word(self) -> str:
        kind = self.rng.random()
        if kind < 0.35:
            return self.rng.choice(self.corpus.words)
        if kind < 0.5:
            return self.rng.choice(self._answer_words)
        if kind < 0.6:
            return self.rng.choice(self.corpus.names)
        if kind < 0.65:
            return str(self.rng.randrange(10 ** self.rng.randint(1, 4)))
        return "".join(self.rng.choices(self.pieces, k=self.rng.randint(1, 4)))


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
