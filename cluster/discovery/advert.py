"""What a node says of itself on the network, and what is believed of what others say: nothing.

Anyone on the network can send anything. An advert that was read is well-formed and small, no
more: it names somebody who may be worth dialling, and certificates tell who that is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.core.cluster import PROTOCOL, Address
from cluster.core.errors import BadConfiguration

ROLES = ("coordinator", "worker")
KINDS = ("thunderbolt", "ethernet", "wifi", "other", "loopback")
"""In the order in which another node tries the addresses."""

MOST_ADDRESSES = 16
MOST_TEXT = 100
"""Bytes of a name or id, in UTF-8."""

_NUMBER = re.compile(rb"[0-9]{1,20}")
_INTERFACE = re.compile(r"[A-Za-z0-9._:@-]{1,32}")


@dataclass(frozen=True, slots=True)
class Advert:
    """One coordinator or worker, as it introduces itself."""

    role: str
    """"coordinator" or "worker"."""
    cluster: str
    """Its name, for people; empty for a worker that has none yet."""
    cluster_id: str
    """By which a worker knows the cluster that it has a certificate for; empty for none."""
    node_id: str
    incarnation: int
    port: int
    """Of the coordinator's Registry, or of the agent's Node service."""
    addresses: tuple[Address, ...]
    """At which it may be reached; best kinds first."""
    protocol: int = PROTOCOL


def cluster_mark(fingerprint: bytes) -> str:
    """How adverts name the cluster whose authority has this fingerprint (SHA-256): what a join
    token and a certificate both tell. It proves nothing."""
    return fingerprint.hex()[:16]


def to_txt(advert: Advert) -> dict[str, bytes]:
    """The TXT record of an advert (RFC 6763, section 6), some 100 to 700 bytes; the port is not
    in it. Addresses beyond MOST_ADDRESSES are left out, those of the least kinds first; a long
    cluster name is cut. Raises BadConfiguration when what is left would not be read again."""
    addresses = sorted(advert.addresses, key=lambda address: _rank(address.kind))
    properties = {
        "v": b"%d" % advert.protocol,
        "role": advert.role.encode(),
        "name": advert.cluster.encode()[:MOST_TEXT].decode(errors="ignore").encode(),
        "cluster": advert.cluster_id.encode(),
        "node": advert.node_id.encode(),
        "inc": b"%d" % advert.incarnation,
    }
    for place, address in enumerate(addresses[:MOST_ADDRESSES]):
        text = f"{address.kind} {address.ip} {address.interface}"
        properties[f"a{place}"] = text.encode()
    if from_txt({key.encode(): value for key, value in properties.items()}, advert.port) is None:
        raise BadConfiguration(f"this can't be advertised on the network: {advert}")
    return properties


def from_txt(properties: Mapping[bytes, bytes | None], port: int | None) -> Advert | None:
    """The advert in a TXT record and the port of its SRV record; None when anything in it is
    missing, too long, of the wrong form or makes no sense. Keys not known here are skipped."""
    protocol, incarnation = _number(properties.get(b"v")), _number(properties.get(b"inc"))
    role, name, cluster_id, node_id = (
        _text(properties.get(key)) for key in (b"role", b"name", b"cluster", b"node")
    )
    addresses = _addresses(properties)
    if (
        port is None or not 0 < port < 65536
        or protocol is None or not 0 < protocol < 10_000
        or incarnation is None or not incarnation < 1 << 64
        or role not in ROLES
        or name is None or cluster_id is None or not node_id
        or not addresses
    ):  # fmt: skip
        return None
    return Advert(role, name, cluster_id, node_id, incarnation, port, addresses, protocol)


def _addresses(properties: Mapping[bytes, bytes | None]) -> tuple[Address, ...] | None:
    """Those under a0, a1, ... in this order; None when one of them is none."""
    found = []
    for place in range(MOST_ADDRESSES):
        key = b"a%d" % place
        if key not in properties:
            break
        address = _address(_text(properties[key]) or "")
        if address is None:
            return None
        found.append(address)
    return tuple(found)


def _address(text: str) -> Address | None:
    """The one in "kind ip interface"; a kind not known here is "other"."""
    words = text.split(" ")
    if len(words) != 3 or not _INTERFACE.fullmatch(words[2]):
        return None
    try:
        ip = ipaddress.ip_address(words[1])
    except ValueError:
        return None
    if ip.is_multicast or ip.is_unspecified or ip == ipaddress.ip_address("255.255.255.255"):
        return None
    if ip.version == 6 and (ip.is_link_local or ip.scope_id):
        return None
    return Address(words[2], str(ip), words[0] if words[0] in KINDS else "other")


def _text(value: bytes | None) -> str | None:
    """Printable text of a bounded length; None for anything else."""
    if value is None or len(value) > MOST_TEXT:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and _NUMBER.fullmatch(value) else None


def _rank(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else KINDS.index("other")
