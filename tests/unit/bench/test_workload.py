from __future__ import annotations

import itertools
import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.bench.lengths import (
    LONGEST,
    TAIL,
    Independent,
    Lengths,
    Listed,
    parse_lengths,
    parse_pairs,
)
from cluster.bench.load import Load, arrivals, parse_loads
from cluster.bench.prompts import Calibration, Prompts, calibrate, random_words
from cluster.bench.result import Slo
from cluster.bench.sessions import Workload, session
from cluster.bench.slo import parse_slo, words
from cluster.core.errors import BadConfiguration

PAIRS = Independent(parse_lengths("64-512", "--prompt"), parse_lengths("32", "--output"))


@pytest.mark.parametrize(
    ("text", "kind", "middle"),
    [
        ("7", "uniform", 7),
        ("64-512", "uniform", 288),
        ("normal:256,64", "normal", 256),
        ("lognormal:256,0.8", "lognormal", 256),
    ],
)
def test_lengths_are_as_they_are_written(text: str, kind: str, middle: float) -> None:
    lengths = parse_lengths(text, "--prompt")
    assert lengths.kind == kind
    chance = Random(1)
    drawn = [lengths.draw(chance) for _ in range(4000)]
    assert statistics.median(drawn) == pytest.approx(middle, rel=0.05)
    assert all(isinstance(length, int) and length >= 1 for length in drawn)
    if kind == "lognormal":  # the median above e^mu, the mean above the median
        assert statistics.mean(drawn) == pytest.approx(256 * 2.718281828 ** (0.8**2 / 2), rel=0.1)


@given(
    st.sampled_from(["normal", "lognormal"]), st.floats(1, LONGEST), st.floats(0, 5), st.integers()
)
def test_a_length_is_never_absurd(kind: str, low: float, high: float, seed: int) -> None:
    length = Lengths(kind, low, high).draw(Random(seed))
    assert 1 <= length <= min(LONGEST, round(TAIL * low))


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "9-3", "abc", "normal:0,1", "normal:9", "lognormal:9,50", "99999999"]
)
def test_other_lengths_are_refused_by_name(text: str) -> None:
    with pytest.raises(BadConfiguration, match="--prompt"):
        parse_lengths(text, "--prompt")


def test_pairs_from_a_file() -> None:
    listed = parse_pairs("prompt,output\n# of a log\n512,64\n\n30 7\n", "log.csv")
    assert listed == Listed(((512, 64), (30, 7)))
    chance = Random(0)
    assert {listed.draw(chance) for _ in range(50)} == {(512, 64), (30, 7)}


@pytest.mark.parametrize("text", ["1,2\n3", "1,2\n0,4", "1,2\nx,4", "1,2,3"])
def test_a_bad_pair_is_named_by_its_line(text: str) -> None:
    with pytest.raises(BadConfiguration, match=rf"log.csv line {text.count(chr(10)) + 1}"):
        parse_pairs(text, "log.csv")


def test_a_file_without_pairs_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="has 0 pairs"):
        parse_pairs("# nothing", "log.csv")


def test_arrivals_are_a_poisson_process() -> None:
    times = list(itertools.islice(arrivals(5.0, Random(3)), 20_000))
    gaps = [b - a for a, b in itertools.pairwise([0.0, *times])]
    assert min(gaps) >= 0
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.03)
    # An exponential gap's deviation is its mean; of a steady or a bursty process it is not.
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)
    counts = [0] * int(times[-1])
    for at in times:
        if at < len(counts):
            counts[int(at)] += 1
    assert statistics.variance(counts) == pytest.approx(statistics.mean(counts), rel=0.1)


def test_loads() -> None:
    assert parse_loads("1,4", "closed", "-c") == [Load("closed", 1), Load("closed", 4)]
    assert parse_loads("0.5", "open", "-r") == [Load("open", 0.5)]
    assert [str(x) for x in (Load("closed", 1), Load("closed", 4), Load("open", 0.5))] == [
        "1 client",
        "4 clients",
        "0.5 req/s",
    ]


@pytest.mark.parametrize("text", ["", "0", "1.5", "1,,2", "x", "3000", ",".join(["1"] * 21), "nan"])
def test_other_loads_are_refused(text: str) -> None:
    with pytest.raises(BadConfiguration, match="--concurrency"):
        parse_loads(text, "closed", "--concurrency")


@given(st.integers(), st.integers(-1, 20), st.integers(0, 10**6))
def test_a_session_depends_on_seed_level_and_number_alone(
    seed: int, level: int, number: int
) -> None:
    work = Workload(PAIRS, seed, turns=3, cancel=0.5)
    made = session(work, level, number)
    assert made == session(work, level, number)
    assert made.number == number
    assert len(made.turns) == 3
    for turn in made.turns:
        assert 64 <= turn.prompt <= 512
        assert turn.hang_up is None or 0 <= turn.hang_up < turn.output


def test_so_many_are_hung_up_on() -> None:
    def share(cancel: float) -> float:
        work = Workload(PAIRS, cancel=cancel)
        return statistics.mean(session(work, 0, n).turns[0].hang_up is not None for n in range(999))

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert share(0.25) == pytest.approx(0.25, abs=0.05)


def test_calibration_is_a_line() -> None:
    made = calibrate((8, 8 * 2 + 30), (264, 264 * 2 + 30))
    assert made == Calibration(30.0, 2.0)
    assert made.words(130, first=True) == 50
    assert made.words(130, first=False) == 65
    assert made.words(5, first=True) == 1  # a prompt can't be empty


@pytest.mark.parametrize("many", [(264, 46), (264, 10), (264, 10**6)])
def test_a_server_that_counts_nonsense_is_not_believed(many: tuple[int, int]) -> None:
    assert calibrate((8, 46), many) == Calibration(0.0, 1.0)


def test_words_are_those_of_the_run_and_the_session() -> None:
    one, other = (Prompts(nonce, Calibration(10, 1.0), prefix=50) for nonce in ("a", "b"))
    assert one.question(40, 0, 1, 0) == one.question(40, 0, 1, 0)
    texts = [
        prompts.question(40, *where)["content"]
        for prompts in (one, other)
        for where in ((0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1))
    ]
    openings = {text[:30] for text in texts}
    assert len(openings) == len(texts)  # nothing to be found in a prefix cache
    assert {len(text.split()) for text in texts} == {40}
    assert one.opening() == one.opening() != other.opening()
    assert len(one.opening()[0]["content"].split()) == 40  # the overhead is in the 50
    alone = Prompts("a", Calibration(10, 1.0))
    assert alone.opening() == []
    assert len(alone.question(40, 0, 1, 0)["content"].split()) == 30
    assert len(random_words(9, 1).split()) == 9


def test_slo() -> None:
    slo = parse_slo("ttft=500ms, itl=0.05s")
    assert slo == Slo(ttft=0.5, itl=0.05)
    assert words(slo) == "TTFT up to 500 ms, ITL up to 50 ms"
    for text in ("", "ttft=5", "ttft=0ms", "ttft=1s,ttft=2s", "speed=1s", "ttft=1s;itl=1s"):
        with pytest.raises(BadConfiguration, match="--slo"):
            parse_slo(text)
