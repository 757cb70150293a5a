"""Whatever sources do, a transfer ends: with every chunk verified, or saying what is missing."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cluster.core.manifest import CHUNK, Manifest, ModelFile
from cluster.node.transfer import Chunk, Transfer

HASH = b"h" * 32


def manifest(*chunks: int) -> Manifest:
    """Files "0", "1", ... of so many chunks, the last one half."""
    return Manifest(
        tuple(
            ModelFile(str(i), count * CHUNK - CHUNK // 2 if count else 0, (HASH,) * count)
            for i, count in enumerate(chunks)
        )
    )


class World:
    """Sources that do what a script says of each chunk: right, wrong, fail, or late."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.flying: list[tuple[str, Chunk]] = []
        self.asked: Counter[Chunk] = Counter()

    def start(self, source: str) -> bool:
        chunk = self.transfer.take(source)
        if chunk is None:
            return False
        self.asked[chunk] += 1
        self.flying.append((source, chunk))
        return True

    def end(self, place: int, how: str) -> None:
        source, chunk = self.flying.pop(place % len(self.flying))
        if how == "right":
            self.transfer.arrived(source, chunk)
        elif how == "wrong":
            self.transfer.wrong(source, chunk)
        else:
            self.transfer.failed(source, f"{source} is gone")


@given(
    files=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    sources=st.integers(0, 4),
    moves=st.lists(
        st.tuples(st.sampled_from(["start", "right", "wrong", "fail"]), st.integers(0, 9)),
        max_size=80,
    ),
    afterwards=st.sampled_from(["right", "wrong", "fail"]),
    there=st.integers(0, 5),
)
def test_every_pattern_of_failures_ends(
    files: list[int], sources: int, moves: list[tuple[str, int]], afterwards: str, there: int
) -> None:
    wanted = manifest(*files)
    every = [Chunk(file.name, i) for file in wanted.files for i in range(len(file.hashes))]
    names = [f"s{i}" for i in range(sources)]
    transfer = Transfer(wanted, names, every[:there])
    world = World(transfer)
    for what, number in moves:
        if what == "start" and names:
            world.start(names[number % len(names)])
        elif what != "start" and world.flying:
            world.end(number, what)
        assert not transfer.complete or transfer.over or not world.flying
    steps = 0
    while not transfer.over:
        steps += 1
        assert steps < 500
        started = [world.start(name) for name in names]
        if world.flying:
            world.end(0, afterwards)
        else:
            assert any(started)
    # Whatever still flies here is of sources that were given up.
    assert not set(world.asked) & set(every[:there])
    if transfer.complete:
        assert transfer.verified == set(every)
        assert transfer.bytes == wanted.size
    else:
        lost = transfer.lost()
        missing = {chunk.file for chunk in every if chunk not in transfer.verified}
        assert any(name in lost for name in missing)
        assert str(wanted.size - transfer.bytes) in lost
        assert afterwards != "right" or transfer.troubles or not names


def test_the_faster_source_gives_more() -> None:
    transfer = Transfer(manifest(30), ["slow", "fast"])
    given: Counter[str] = Counter()
    slow = transfer.take("slow")
    for turn in range(100):
        source = "slow" if turn % 10 == 9 else "fast"
        chunk = slow if source == "slow" else transfer.take("fast")
        if chunk is None:
            break
        transfer.arrived(source, chunk)
        given[source] += 1
        if source == "slow":
            slow = transfer.take("slow")
    if slow is not None:
        transfer.arrived("slow", slow)
        given["slow"] += 1
    assert transfer.complete
    assert given["fast"] > 5 * given["slow"] > 0


def test_a_source_of_wrong_bytes_is_not_asked_for_that_file_again() -> None:
    transfer = Transfer(manifest(2, 1), ["a", "b"])
    first = transfer.take("a")
    assert first == Chunk("0", 0)
    transfer.wrong("a", first)
    assert transfer.take("a") == Chunk("1", 0)
    assert transfer.take("a") is None
    assert transfer.take("b") == first
    assert not transfer.over
    assert transfer.troubles == ["a gave a damaged chunk 0 of 0"]


def test_a_chunk_that_was_given_up_and_comes_after_all() -> None:
    transfer = Transfer(manifest(2), ["a", "b"])
    chunks = [transfer.take("a"), transfer.take("a")]
    assert None not in chunks
    transfer.failed("a", "gone")
    assert not transfer.over
    for chunk in chunks:
        assert chunk is not None
        transfer.arrived("a", chunk)
    assert transfer.complete and transfer.over
    assert transfer.take("b") is None


def test_nothing_to_fetch() -> None:
    transfer = Transfer(manifest(0, 1), [], [Chunk("1", 0)])
    assert transfer.complete and transfer.over
