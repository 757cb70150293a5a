"""TXT records: what goes out comes in, and nothing that anyone sends does any harm."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.cluster import PROTOCOL, Address
from cluster.core.errors import BadConfiguration
from cluster.discovery.advert import KINDS, MOST_ADDRESSES, Advert, from_txt, to_txt

ADVERT = Advert(
    "coordinator", "studio", "c0ffee", "studio-12345678", 1 << 61, 8643,
    (Address("en5", "169.254.1.2", "thunderbolt"), Address("en0", "10.0.0.1", "ethernet")),
)  # fmt: skip


def raw(advert: Advert = ADVERT, **changes: bytes | None) -> dict[bytes, bytes | None]:
    """The record as it is read, with some of it changed or (None) without a value."""
    record: dict[bytes, bytes | None] = {k.encode(): v for k, v in to_txt(advert).items()}
    return {**record, **{key.encode(): value for key, value in changes.items()}}


def test_round_trip() -> None:
    assert from_txt(raw(), 8643) == ADVERT
    assert ADVERT.protocol == PROTOCOL


texts = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=30)


@settings(max_examples=30)
@given(
    st.builds(
        Advert, role=st.sampled_from(["coordinator", "worker"]), cluster=texts, cluster_id=texts,
        node_id=texts.filter(bool), incarnation=st.integers(0, (1 << 64) - 1),
        port=st.integers(1, 65535), protocol=st.integers(1, 9999),
        addresses=st.lists(
            st.builds(
                Address, interface=st.from_regex(r"[a-z0-9.:-]{1,15}", fullmatch=True),
                ip=st.ip_addresses(network="10.0.0.0/8").map(str),
                kind=st.sampled_from(KINDS),
            ),
            min_size=1, max_size=MOST_ADDRESSES,
        ).map(lambda found: tuple(sorted(found, key=lambda a: KINDS.index(a.kind)))),
    )
)  # fmt: skip
def test_any_advert_comes_back(advert: Advert) -> None:
    assert from_txt(raw(advert), advert.port) == advert


def test_the_best_addresses_go_first_and_too_many_not_at_all() -> None:
    many = tuple(Address("en1", f"10.0.0.{n}", "wifi") for n in range(20))
    sent = from_txt(raw(replace(ADVERT, addresses=(*many, ADVERT.addresses[0]))), 1)
    assert sent is not None
    assert sent.addresses == (ADVERT.addresses[0], *many[: MOST_ADDRESSES - 1])


def test_a_long_name_is_cut_between_characters() -> None:
    sent = from_txt(raw(replace(ADVERT, cluster="ü" * 80)), 1)
    assert sent is not None and sent.cluster == "ü" * 50
    sent = from_txt(raw(replace(ADVERT, cluster="x" + "ü" * 80)), 1)
    assert sent is not None and sent.cluster == "x" + "ü" * 49


def test_a_record_fits_into_a_packet() -> None:
    full = replace(
        ADVERT, cluster="x" * 100, cluster_id="x" * 100, node_id="x" * 100,
        addresses=tuple(Address("x" * 32, "203.0.113.255", "thunderbolt") for _ in range(16)),
    )  # fmt: skip
    record = to_txt(full)
    assert all(len(key) + 1 + len(value) < 256 for key, value in record.items())
    assert sum(len(key) + 2 + len(value) for key, value in record.items()) < 1400


@pytest.mark.parametrize(
    "change",
    [
        {"role": "king"}, {"node_id": ""}, {"node_id": "x" * 101}, {"cluster_id": "a\nb"},
        {"addresses": ()}, {"port": 0}, {"incarnation": -1}, {"protocol": 0},
        {"addresses": (Address("a b", "10.0.0.1", "wifi"),)},
    ],
)  # fmt: skip
def test_what_can_not_be_advertised(change: dict[str, object]) -> None:
    with pytest.raises(BadConfiguration, match="can't be advertised"):
        to_txt(replace(ADVERT, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"v": b"x"}, {"v": b""}, {"v": None}, {"v": b"0"}, {"v": b"10000"}, {"v": b"-1"},
        {"v": "٣".encode()}, {"v": b"1_0"}, {"v": b" 3"}, {"v": b"9" * 255},
        {"role": b"Coordinator"}, {"role": None}, {"role": b"\xff"},
        {"node": b""}, {"node": b"\xc3"}, {"node": b"x" * 101}, {"node": b"\x1b[2J"},
        {"name": b"a\nb"}, {"name": b"\x00"}, {"name": "\u202e".encode()}, {"name": None},
        {"cluster": b"x" * 200}, {"inc": b"1" * 21}, {"inc": b"18446744073709551616"},
        {"a0": b""}, {"a0": None}, {"a0": b"wifi 10.0.0.1"}, {"a0": b"wifi 10.0.0.1 en0 x"},
        {"a0": b"wifi 10.0.0.256 en0"}, {"a0": b"wifi example.org en0"},
        {"a0": b"wifi 224.0.0.251 en0"}, {"a0": b"wifi 0.0.0.0 en0"}, {"a0": b"wifi :: en0"},
        {"a0": b"wifi 255.255.255.255 en0"}, {"a0": b"wifi ff02::fb en0"},
        {"a0": b"wifi fe80::1 en0"}, {"a0": b"wifi fe80::1%en0 en0"}, {"a1": b"wifi 10.1 en0"},
        {"a0": b"wifi 10.0.0.1 ../../x"}, {"a0": b"wifi 010.0.0.1 en0"},
    ],
)  # fmt: skip
def test_lies_and_garbage(change: dict[str, bytes | None]) -> None:
    assert from_txt(raw(**change), 8643) is None


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_ports(port: int | None) -> None:
    assert from_txt(raw(), port) is None


@pytest.mark.parametrize("key", [b"v", b"role", b"name", b"cluster", b"node", b"inc", b"a0"])
def test_everything_is_needed(key: bytes) -> None:
    record = raw()
    del record[key]
    assert from_txt(record, 8643) is None


def test_what_a_later_version_adds_is_skipped() -> None:
    found = from_txt(raw(a0=b"beam 10.0.0.9 en9", zz=b"\xff" * 200), 8643)
    assert found is not None
    assert found.addresses[0] == Address("en9", "10.0.0.9", "other")


def test_no_more_addresses_are_read_than_are_sent() -> None:
    record = raw(**{f"a{n}": b"wifi 10.0.0.1 en0" for n in range(100)})
    found = from_txt(record, 8643)
    assert found is not None and len(found.addresses) == MOST_ADDRESSES


blobs = st.binary(max_size=255)


@given(st.dictionaries(st.sampled_from([*raw(), b"a2", b"x"]), st.none() | blobs), st.integers())
def test_garbage(changes: dict[bytes, bytes | None], port: int) -> None:
    """Never an exception; and what is taken can be sent again."""
    for record in (changes, {**raw(), **changes}):
        advert = from_txt(record, port)
        if advert is not None:
            assert from_txt(raw(advert), port) is not None
